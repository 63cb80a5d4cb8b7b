"""Decoding against the whole forward pass for every token."""

import pytest
import torch

from einsearch_cli.data.tokens import BytesTokenizer
from einsearch_cli.errors import PromptError
from einsearch_cli.generation import Decoding, IdCodec, Sampling, TextCodec, generate
from einsearch_cli.models import Transformer
from tests.models.transformers import KINDS, awake, config_of

PROMPT = [3, 1, 4]


@torch.no_grad()
def slowly(model: Transformer, prompt: list[int], steps: int, sampling: Sampling, seed: int) -> list[int]:
    """Decode slowly: every step reads all tokens again."""
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(steps):
        logits = model(torch.tensor([tokens]))[:, -1]
        tokens += sampling.choose(logits, torch.rand(1, generator=generator)).tolist()
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_whole_forward_passes(kind: str) -> None:
    model, sampling = awake(config_of(kind)), Sampling(temperature=0.7, top_p=0.95)
    decoding = Decoding(model, PROMPT, max_tokens=7, sampling=sampling, samples=3, seed=5)
    found = [list(sample) for sample in zip(*decoding, strict=True)]
    assert found == [slowly(model, PROMPT, 7, sampling, seed) for seed in (5, 6, 7)]


def test_a_changed_factor_is_seen_by_the_next_decoding() -> None:
    """Merged matrices, which decoding keeps from token to token, are formed again."""
    model, greedy = awake(config_of("btt in attention, grouped")), Sampling(temperature=0)
    for layer in model.structured_layers().values():
        layer.route = "x(AB)"
    before = list(Decoding(model, PROMPT, max_tokens=7, sampling=greedy))
    with torch.no_grad():
        for layer in model.structured_layers().values():
            layer.factors["A"].normal_(generator=torch.Generator().manual_seed(1))
    after = [step[0] for step in Decoding(model, PROMPT, max_tokens=7, sampling=greedy)]
    assert after == slowly(model, PROMPT, 7, greedy, seed=0)
    assert [[token] for token in after] != before


def test_a_model_is_merged_while_it_decodes() -> None:
    """It stays merged until the last token, or until the decoding is abandoned."""
    model = awake(config_of("btt in attention, grouped"))
    layers = model.structured_layers().values()
    steps = iter(Decoding(model, PROMPT, max_tokens=3))
    for _ in range(2):
        next(steps)
        assert all(layer.is_merged for layer in layers)
    steps.close()
    assert not any(layer.is_merged for layer in layers)
    list(Decoding(model, PROMPT, max_tokens=3))
    assert not any(layer.is_merged for layer in layers)


def test_a_sample_does_not_depend_on_the_others() -> None:
    model = awake(config_of("grouped"))
    many = list(Decoding(model, PROMPT, max_tokens=6, samples=4, seed=1))
    alone = list(Decoding(model, PROMPT, max_tokens=6, seed=3))
    assert [step[2] for step in many] == [step[0] for step in alone]


def test_the_context_ends_a_sample() -> None:
    model = awake(config_of("plain"))  # of context 12
    decoding = Decoding(model, PROMPT, max_tokens=50)
    assert len(list(decoding)) == 10  # the last token is written and never read
    assert decoding.finished == ["context"]
    full = Decoding(model, [1] * 12, max_tokens=5)
    assert len(list(full)) == 1


def test_a_stop_token_ends_its_sample_alone() -> None:
    model = awake(config_of("plain"))
    free = [list(sample) for sample in zip(*Decoding(model, PROMPT, max_tokens=8, samples=3), strict=True)]
    stop = free[0][2]
    decoding = Decoding(model, PROMPT, max_tokens=8, samples=3, stop=stop)
    for sample, tokens, ending in zip(free, zip(*decoding, strict=True), decoding.finished, strict=True):
        end = sample.index(stop) + 1 if stop in sample else 8
        length = len(tokens)
        assert list(tokens) == [*sample[:end], *[None] * (length - end)]
        assert ending == ("stop" if stop in sample else "length")


def test_decoding_ends_when_all_samples_have_stopped() -> None:
    model = awake(config_of("plain"))
    (first,) = next(iter(Decoding(model, PROMPT, max_tokens=8)))
    assert len(list(Decoding(model, PROMPT, max_tokens=8, stop=first))) == 1


def test_consumers_are_not_in_inference_mode() -> None:
    for _ in Decoding(awake(config_of("plain")), PROMPT, max_tokens=2):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_text_comes_as_soon_as_it_is_certain() -> None:
    """A model that continues any byte with a fixed one writes é, whose two bytes make one character."""
    model = Transformer(config_of("plain", vocabulary=256, layers=1))
    with torch.no_grad():
        model.embedding.weight.zero_()
        follow = {ord("n"): 0xC3, 0xC3: 0xA9, 0xA9: ord("n")}
        for number, (before, after) in enumerate(follow.items()):
            model.embedding.weight[before, number] = 30
            model.head.weight[after, number] = 10
    pieces: list[str] = []
    decoding = Decoding(model.eval(), [ord("n")], max_tokens=5, sampling=Sampling(temperature=0))
    found = generate(decoding, TextCodec(BytesTokenizer()), lambda _, text: pieces.append(text))
    assert pieces == ["é", "n", "é"]
    assert found.samples[0].text == "éné"
    cut = generate(
        Decoding(model, [ord("n")], max_tokens=4, sampling=Sampling(temperature=0)), TextCodec(BytesTokenizer())
    )
    assert cut.samples[0].text == "én\N{REPLACEMENT CHARACTER}"
    assert cut.samples[0].tokens == [0xC3, 0xA9, ord("n"), 0xC3]


def test_a_generation_counts_its_steps() -> None:
    found = generate(Decoding(awake(config_of("plain")), PROMPT, max_tokens=4, samples=2), IdCodec())
    assert found.steps == 4
    assert found.tokens_per_s == pytest.approx(3 * 2 / found.decoding_s)
    single = generate(Decoding(awake(config_of("plain")), PROMPT, max_tokens=1), IdCodec())
    assert single.tokens_per_s is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 13, "a prompt of 13 tokens for a context of 12: .*\ntry: give the last 12 tokens or fewer"),
        ([1, 13], "token 13 at position 1 of the prompt: the model has a vocabulary of 13, tokens 0 to 12"),
        ([-1], "token -1 at position 0"),
    ],
    ids=["empty", "long", "unknown", "negative"],
)
def test_prompts_that_cannot_be_continued(prompt: list[int], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Decoding(Transformer(config_of("plain")), prompt, max_tokens=1)


def test_words_that_are_not_ids_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'1\.5' is not a token id: ids are whole numbers"):
        IdCodec().read("3 1.5")
