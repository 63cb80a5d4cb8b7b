"""`einsearch project --calibrate`: Hugging Face folders and runs, fitted to data, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.data.tokens import BytesTokenizer
from einsearch_cli.export import save_run
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.training.full import load_model

transformers = pytest.importorskip("transformers")
TEXT = "def compress(model, batches):\n    return [layer(batch) for layer in model for batch in batches]\n" * 40


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama for bytes with its tokenizer, and a text next to it."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    _write_tokenizer(tmp_path / "dense" / "tokenizer.json")
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path


def _write_tokenizer(path: Path) -> None:
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(path))


def test_a_folder_keeps_to_its_budget_and_loads(einsearch, folder) -> None:
    out = folder / "small"
    outcome = einsearch(
        "project",
        folder / "dense",
        "--calibrate",
        folder / "book.txt",
        "--keep",
        "0.5",
        "--format",
        "json",
        "--out",
        out,
    )
    assert outcome.code == 0, outcome.err
    assert f"{len(TEXT):,} tokens; one pass takes about " in outcome.err
    assert "replacing model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj" in outcome.err
    records = json.loads(outcome.out)
    assert all(0 < record["output_error"] < 1 for record in records)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    layers = [layer for layer in model.modules() if isinstance(layer, EinsumLinear)]
    assert len(layers) == len(records)
    dense = transformers.AutoModelForCausalLM.from_pretrained(folder / "dense")
    kept = sum(p.numel() for name, p in model.named_parameters() if "layers" in name)
    assert kept < 0.53 * sum(p.numel() for name, p in dense.named_parameters() if "layers" in name)
    tokens = torch.frombuffer(bytearray(TEXT[:48], "ascii"), dtype=torch.uint8).long()[None]
    with torch.no_grad():
        expected = dense(tokens).logits
        assert (model(tokens).logits - expected).norm() / expected.norm() < 0.5
    assert (out / "tokenizer.json").exists()
    assert sorted(item.name for item in folder.iterdir()) == ["book.txt", "dense", "small"]


def test_a_run_is_fitted_to_data(einsearch, tmp_path) -> None:
    config = TransformerConfig(vocabulary=256, width=32, layers=2, heads=2, context=16, hidden=64)
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=0.3)
    save_run(model, tmp_path / "dense", BytesTokenizer())
    (tmp_path / "book.txt").write_text(TEXT)
    tokens = torch.frombuffer(bytearray(TEXT[:160], "ascii"), dtype=torch.uint8).long().view(10, 16)
    lost = []
    for options in ([], ["--calibrate", tmp_path / "book.txt"]):
        out = tmp_path / f"out{len(options)}"
        outcome = einsearch("project", tmp_path / "dense", "--structure", "low-rank:r=8", "--out", out, *options)
        assert outcome.code == 0, outcome.err
        lost.append(float((load_model(out)[0](tokens) - model(tokens)).detach().norm()))
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "0.5"], "--keep without --calibrate: data say which layers can be small"),
        (
            ["--structure", "monarch"],
            "is a Hugging Face model: its layers are fitted to data",
        ),
        (["--calibrate", "book.txt"], "no --structure and no --keep"),
        (["--calibrate", "book.txt", "--keep", "2"], "--keep 2: a number above 0 and below 1 is needed"),
        (
            ["--calibrate", "book.txt", "--keep", "0.001"],
            "keep=0.001 of 20,480 parameters in 14 layers: low-rank can go down to",
        ),
        (["--calibrate", "book.txt", "--keep", "0.5", "--structure", "lowrank"], "named 'lowrank'"),
        (["--calibrate", "short.txt", "--keep", "0.5"], "5 tokens to calibrate with: the widest layer has 64 inputs"),
        (["--calibrate", "empty.txt", "--keep", "0.5"], "has no text to calibrate with"),
        (["--calibrate", "none.txt", "--keep", "0.5"], "none.txt does not exist"),
        (["--calibrate", "tokens", "--keep", "0.5"], "were made by another tokenizer than the model's"),
        (["--calibrate", "large", "--keep", "0.5"], "token 3,000 in "),
    ],
)
def test_bad_input_leaves_nothing(einsearch, folder, monkeypatch, options: list[Any], message: str) -> None:
    import numpy as np

    monkeypatch.chdir(folder)
    Path("short.txt").write_text("short")
    Path("empty.txt").write_text("")
    assert einsearch("tokenize", "book.txt", "--out", "tokens", "--tokenizer", "bytes").code == 0
    Path("large").mkdir()
    np.array([1, 3000] * 500, dtype="<u2").tofile("large/train.bin")
    Path("large/meta.json").write_text(json.dumps({"vocabulary": 4000, "token_type": "uint16"}))
    outcome = einsearch("project", "dense", "--out", "out", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not Path("out").exists()
    assert not [item for item in folder.iterdir() if item.name.startswith(".")]


def test_models_that_are_compressed_already_are_refused(einsearch, folder) -> None:
    arguments = ("--calibrate", folder / "book.txt", "--keep", "0.5", "--out")
    assert einsearch("project", folder / "dense", *arguments, folder / "small").code == 0
    again = einsearch("project", folder / "small", *arguments, folder / "smaller")
    assert again.code == 2
    assert "is compressed by einsearch already" in again.err


@pytest.mark.parametrize("options", [["--keep", "0.5"], ["--structure", "low-rank:r=4"]])
def test_a_folder_that_is_missing_or_empty_is_named(einsearch, tmp_path, options) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "empty").mkdir()
    for name, problem in (("nowhere", ": no such file or folder"), ("empty", " is an empty folder: no config.json of")):
        more = ["--calibrate", tmp_path / "book.txt", "--out", tmp_path / "out"]
        outcome = einsearch("project", tmp_path / name, *options, *more)
        assert outcome.code == 2
        assert f"{tmp_path / name}{problem}" in outcome.err
    outcome = einsearch("project", tmp_path, "--calibrate", tmp_path / "book.txt", "--keep", "0.5", "--out", "out")
    assert "Hugging Face models only, and it has no config.json" in outcome.err
