"""`einsearch generate` from the command line, on small checkpoints that were never trained."""

import io
import json
from pathlib import Path

import pytest
import torch

from einsearch_cli.data.tokens import BytesTokenizer, CharacterTokenizer, Tokenizer
from einsearch_cli.generation import Decoding
from einsearch_cli.models import Transformer, TransformerConfig
from einsearch_cli.training.full.checkpoint import RunState, save_checkpoint

CHARACTERS = CharacterTokenizer.of(["hello world, naïve"])


def run_folder(path: Path, tokenizer: Tokenizer | None, seed: int = 0) -> tuple[Path, Transformer]:
    config = TransformerConfig(
        vocabulary=CHARACTERS.vocabulary, width=32, layers=2, heads=4, kv_heads=2, context=24, structure="low-rank:r=8"
    )
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=0.5)
    state = RunState(
        step=1,
        flops=1,
        elapsed_s=1.0,
        guided=False,
        guide_weight=0.0,
        spec={},
        config=config.model_dump(mode="json"),
        tokenizer=None if tokenizer is None else tokenizer.to_json(),
        data_digest="",
    )
    save_checkpoint(path, state, dict(model.named_parameters()), {"step": torch.ones(1)})
    return path, model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Transformer]:
    return run_folder(tmp_path_factory.mktemp("runs") / "text", CHARACTERS)


def text_of(model: Transformer, prompt: str, steps: int, **settings: int) -> str:
    tokens = [int(token) for token in CHARACTERS.encode(prompt)]
    return CHARACTERS.decode(step[0] for step in Decoding(model, tokens, max_tokens=steps, **settings))


def test_text_on_stdout_and_speed_on_stderr(einsearch, run) -> None:
    path, model = run
    outcome = einsearch("generate", path, "--prompt", "hello", "--max-tokens", "8", "--seed", "3")
    assert outcome.code == 0
    assert outcome.out == text_of(model, "hello", 8, seed=3) + "\n"
    assert outcome.err.startswith("8 tokens, ended by length; first after ")
    assert outcome.err.endswith("tokens/s\n")


def test_several_samples_as_json_from_stdin(einsearch, run, monkeypatch) -> None:
    path, model = run
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    options = ("--samples", "3", "--max-tokens", "5", "--seed", "7", "--format", "json")
    told = json.loads(einsearch("generate", path, "--prompt", "-", *options).out)
    assert told["prompt"] == "hello"
    assert [sample["text"] for sample in told["samples"]] == [text_of(model, "hello", 5, seed=7 + n) for n in range(3)]
    assert all(CHARACTERS.decode(sample["tokens"]) == sample["text"] for sample in told["samples"])
    assert told["tokens_per_s"] > 0


def test_several_samples_as_text(einsearch, run) -> None:
    path, model = run
    out = einsearch("generate", path, "--prompt", "he", "--samples", "2", "--max-tokens", "4").out
    assert out == "".join(f"--- sample {n}\n{text_of(model, 'he', 4, seed=n)}\n" for n in range(2))


def test_sampling_options_reach_the_decoder(einsearch, run) -> None:
    path, _ = run
    greedy = {
        einsearch("generate", path, "--prompt", "wo", *options, "--seed", "5").out
        for options in (("--temperature", "0"), ("--top-k", "1"), ("--top-p", "1e-9"))
    }
    assert len(greedy) == 1
    assert greedy != {einsearch("generate", path, "--prompt", "wo", "--seed", "5").out}


def test_the_context_and_a_stop_token_end_it(einsearch, run) -> None:
    path, _ = run
    outcome = einsearch("generate", path, "--prompt", "hello", "--max-tokens", "99")
    assert len(outcome.out) == 24 - 5 + 1 + 1  # context, prompt, a token that is not read, end of line
    assert "20 tokens, ended by context" in outcome.err
    stop = outcome.out[2]
    first = outcome.out.index(stop)
    stopped = einsearch("generate", path, "--prompt", "hello", "--stop", stop)
    assert stopped.out == outcome.out[:first] + "\n"
    assert "ended by stop" in stopped.err


def test_ids_without_a_tokenizer(einsearch, tmp_path) -> None:
    path, model = run_folder(tmp_path / "ids", None)
    checkpoint = next((path / "checkpoints").iterdir())
    tokens = [step[0] for step in Decoding(model, [1, 2, 3], max_tokens=4)]
    outcome = einsearch("generate", checkpoint, "--ids", "--prompt", "1 2 3", "--max-tokens", "4")
    assert outcome.out == " ".join(map(str, tokens)) + "\n"
    refused = einsearch("generate", path, "--prompt", "hello")
    assert refused.code == 2
    assert "has no tokenizer" in refused.err
    assert "try: give token ids: --ids --prompt '17 4 291'" in refused.err


def test_a_tokenizer_of_another_vocabulary(einsearch, tmp_path) -> None:
    path, _ = run_folder(tmp_path / "bytes", BytesTokenizer())
    outcome = einsearch("generate", path, "--prompt", "zoo")
    assert outcome.code == 2
    assert "token 122 at position 0 of the prompt: the model has a vocabulary of" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", ""), "the prompt is empty: the first token has to be given"),
        (("--prompt", "h" * 25), "a prompt of 25 tokens for a context of 24"),
        (("--prompt", "h", "--top-p", "2"), "--top-p 2: a number above 0 and at most 1 is needed"),
        (("--prompt", "h", "--stop", "lo"), "--stop 'lo' is 2 tokens: generation stops at a single one"),
        (("--prompt", "1 x", "--ids"), "'x' is not a token id"),
        (("--prompt", "99", "--ids"), "token 99 at position 0"),
        (("--prompt", "h", "--device", "tpu"), "device 'tpu'"),
        ((), "--prompt"),
    ],
    ids=str,
)
def test_bad_input(einsearch, run, arguments: tuple[str, ...], message: str) -> None:
    outcome = einsearch("generate", run[0], *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device(einsearch, run) -> None:
    outcome = einsearch("generate", run[0], "--prompt", "h", "--device", "cuda")
    assert outcome.code == 2
    assert "device 'cuda': " in outcome.err
    assert "try: use --device cpu" in outcome.err


def test_no_checkpoint_there(einsearch, tmp_path) -> None:
    outcome = einsearch("generate", tmp_path, "--prompt", "h")
    assert outcome.code == 2
    assert "has no checkpoint" in outcome.err


def test_characters_that_the_model_never_saw_are_named(einsearch, run) -> None:
    path, _ = run
    outcome = einsearch("generate", path, "--prompt", "hello ß, Ωß")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'ß' (U+00DF), 'Ω' (U+03A9): the model was trained without these 2 characters" in outcome.err
    assert einsearch("generate", path, "--prompt", "naïve", "--max-tokens", "1").code == 0
