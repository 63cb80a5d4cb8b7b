"""Every example of every `--help`, from an empty folder: long ones up to the first training step."""

from __future__ import annotations

import importlib
import io
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from einsearch_cli.cli import study_session, train
from einsearch_cli.cli.commands import SUMMARIES
from einsearch_cli.cli.help_page import examples_of
from einsearch_cli.cli.main import EPILOG, main
from einsearch_cli.data.tokens import BytesTokenizer
from einsearch_cli.export import save_run
from einsearch_cli.models.transformer import Transformer, TransformerConfig

TEXT = "def compress(model, batches):\n    return [layer(batch) for layer in model for batch in batches]\n" * 60
STUDY = """
task: teacher
task_settings: {teacher_width: 16, pool_size: 2048, validation_size: 128, batch_size: 64}
structures: [kronecker]
widths: [16]
seeds: 1
budget_flops: 2e7
halving: {rungs: 1}
rates: fixed
confirm: 0
"""
TRAINING = "{model: {width: 32, layers: 1, heads: 2, context: 16}, batch: 2, steps: 4, data: {text: book.txt}}"
QUICK = ["--widths", "64", "--tokens", "2", "--rounds", "1"]
EXAMPLES = {name: examples_of(importlib.import_module(f"einsearch_cli.cli.{name}").HELP) for name in SUMMARIES}


class ReachedTraining(BaseException):
    """All that is said before data are prepared or a step is made was right."""


def test_there_are_examples() -> None:
    assert all(EXAMPLES.values())
    assert examples_of(EPILOG) == ["einsearch rank demo"]
    assert examples_of(EPILOG)[0] in EXAMPLES["rank"]


@pytest.mark.parametrize("name", SUMMARIES)
def test_examples_run(name: str, place: Callable[[list[str]], None], capfd: Any, monkeypatch: Any) -> None:
    for example in EXAMPLES[name]:
        line, _, stdin = example.replace("torchrun --nproc-per-node 2 -m einsearch_cli", "einsearch").partition(" < ")
        words = shlex.split(line)[1:]
        shutil.rmtree("runs/study", ignore_errors=True)  # each example for itself
        place([*words, stdin])
        monkeypatch.setattr(sys, "stdin", io.StringIO(Path(stdin).read_text() if stdin else ""))
        try:
            code = main([*words, *(QUICK if words[0] == "bench" and "--calibrate" not in words else [])])
        except ReachedTraining:
            assert words[0] in ("rank", "search", "train")
            continue
        shown = capfd.readouterr()
        if "cuda" in words and "bench" in words and not torch.cuda.is_available():
            assert (code, "cuda" in shown.err) == (2, True)
        elif "ray" in words:
            assert "the Ray cluster at auto cannot be reached" in shown.err
        elif "tiktoken:gpt2" in words and code:  # fetched from the network once
            assert "tiktoken" in shown.err
        else:
            assert code == 0, (example, shown.err)
            assert shown.out or "--out" in words or words[:2] == ["evidence", "add"] or name == "watch", example


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_study: Path) -> Callable[[list[str]], None]:
    """Makes the files of one's own that a command line names, in an empty folder that is the current one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def stop(*_: object, **__: object) -> None:
        raise ReachedTraining

    monkeypatch.setattr(study_session.StudySession, "estimated", stop)
    monkeypatch.setattr(train._Session, "plan_lines", stop)
    makers: dict[str, Callable[[Path], object]] = {
        "book.txt": lambda path: path.write_text(TEXT),
        "prompt.txt": lambda path: path.write_text("def compress"),
        "mine.yaml": lambda path: (Path("book.txt").write_text(TEXT), path.write_text(TRAINING)),
        "model.safetensors": lambda path: save_file({"up.weight": torch.randn(64, 64)}, path),
        "models/llama": _language_model,
        "my_photos": _photos,
        **dict.fromkeys(("books", "texts", "my_corpus"), _texts),
        **dict.fromkeys(("runs/dense", "runs/low-rank"), _run),
        **dict.fromkeys(
            ("runs/demo", "runs/mine", "runs/seeds-0", "runs/seeds-1"), lambda path: shutil.copytree(one_study, path)
        ),
    }

    def make(words: list[str]) -> None:
        for before, word in zip(["", *words], words, strict=False):
            name = word.rstrip("/")
            if name in makers and before != "--out" and not Path(name).exists():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                makers[name](Path(name))

    return make


@pytest.fixture(scope="module")
def one_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two runs."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.yaml").write_text(STUDY)
    assert main(["rank", str(folder / "mine.yaml"), "--out", str(folder / "mine"), "--workers", "1"]) == 0
    return folder / "mine"


def _texts(path: Path) -> None:
    path.mkdir()
    for name in ("a", "b", "c"):
        (path / f"{name}.txt").write_text(TEXT)


def _photos(path: Path) -> None:
    from PIL import Image

    path.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{seed}.png")


def _run(path: Path) -> None:
    """A run of `einsearch train` that was never trained."""
    torch.manual_seed(0)
    tokenizer = BytesTokenizer()
    config = TransformerConfig(vocabulary=tokenizer.vocabulary, width=64, layers=1, heads=4, context=16)
    save_run(Transformer(config), path, tokenizer)


def _language_model(path: Path) -> None:
    import tokenizers
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(tokenizers.models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.save(str(path / "tokenizer.json"))
