"""`einsearch project` and `einsearch export` from the command line, on small models that were never trained."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from einsearch_cli.data.tokens import BytesTokenizer
from einsearch_cli.export import load_transformer, save_run
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.projection import project_
from einsearch_cli.swap import SwapReport, apply_swaps
from einsearch_cli.training.full import load_model

TOKENS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))


def _model(structure: str = "dense", layers: int = 2) -> Transformer:
    config = TransformerConfig(
        vocabulary=256, width=32, layers=layers, heads=2, context=16, structure=structure, hidden=64
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                nn.init.normal_(value, std=0.3)
    return model


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Transformer]:
    model = _model()
    save_run(model, tmp_path / "dense", BytesTokenizer())
    return tmp_path / "dense", model


def test_a_run_at_full_rank_stays_the_same_model(einsearch, run, tmp_path) -> None:
    path, model = run
    outcome = einsearch(
        "project", path, "--structure", "low-rank:r=32", "--structured", "all", "--out", tmp_path / "projected"
    )
    assert outcome.code == 0
    assert "12 layers: 16,384 -> 28,672 parameters (175.0%); wrote" in outcome.err
    params = sum(p.numel() for p in model.parameters())
    assert f"replaced {16_384 / params:.1%} of the parameters and 66.7% of the FLOPs (12 of 12 linear" in outcome.err
    assert f"8,192  {8_192 / params:.1%}       16,384  nn.Linear\n" in outcome.err  # the head
    projected, tokenizer = load_model(tmp_path / "projected")
    assert len(projected.structured_layers()) == 12
    assert tokenizer is not None
    assert tokenizer.vocabulary == 256
    torch.testing.assert_close(projected(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)
    generated = einsearch("generate", tmp_path / "projected", "--prompt", "a", "--max-tokens", "3")
    assert generated.code == 0


def test_the_table_has_the_error_of_every_layer(einsearch, run, tmp_path) -> None:
    path, model = run
    arguments = ("project", path, "--structure", "monarch", "--format")
    outcome = einsearch(*arguments, "json", "--out", tmp_path / "a")
    records = json.loads(outcome.out)
    assert [record["layer"] for record in records] == [
        f"blocks.{n}.ffn.{part}" for n in (0, 1) for part in ("up", "down")
    ]
    expected = project_(EinsumLinear(32, 64, "monarch"), model.get_submodule("blocks.1.ffn.up").weight)
    assert records[2] == {
        "layer": "blocks.1.ffn.up",
        "d_in": 32,
        "d_out": 64,
        "relative_error": pytest.approx(expected.relative_error),
        "order": "XA,XAB/YB,YAB",
        "params_before": 2048,
        "params_after": 512,
    }
    table = einsearch(*arguments, "table", "--out", tmp_path / "b").out.splitlines()
    assert table[0].split() == [
        "layer",
        "d_in",
        "d_out",
        "relative",
        "error",
        "order",
        "params",
        "before",
        "after",
        "kept",
    ]
    assert table[4].split() == [
        "blocks.1.ffn.up",
        "32",
        "64",
        f"{expected.relative_error:.4f}",
        "XA,XAB/YB,YAB",
        "2,048",
        "512",
        "25.0%",
    ]
    csv = einsearch(*arguments, "csv", "--out", tmp_path / "c").out
    assert csv.splitlines()[0] == "layer,d_in,d_out,relative_error,order,params_before,params_after"


def test_a_structured_run_is_projected_by_its_merged_matrices(einsearch, tmp_path) -> None:
    model = _model("block-shuffle:blocks=2")
    save_run(model, tmp_path / "run", None)
    assert einsearch("project", tmp_path / "run", "--structure", "low-rank:r=32", "--out", tmp_path / "out").code == 0
    torch.testing.assert_close(load_model(tmp_path / "out")[0](TOKENS), model(TOKENS), rtol=1e-4, atol=1e-4)


def test_a_file_of_weights_comes_back_by_its_report(einsearch, tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(10, 16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16, bias=False), nn.LayerNorm(16)
    )
    save_file(model.state_dict(), tmp_path / "dense.safetensors", {"made": "here"})
    outcome = einsearch(
        "project", tmp_path / "dense.safetensors", "--structure", "low-rank:r=16", "--skip", "0",
        "--out", tmp_path / "small.safetensors",
    )  # fmt: skip
    assert outcome.code == 0
    assert "left 0: --skip 0\n" in outcome.err
    assert "replaced 78.0% of the parameters and 100.0% of the known FLOPs (2 of 3 linear\n" in outcome.err
    assert "FLOPs are not known for 16.3% of the parameters: 2-dimensional tensor\n" in outcome.err
    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["made"] == "here"
    report = SwapReport.from_json(json.loads(metadata["einsearch_swaps"]))
    rebuilt = nn.Sequential(
        nn.Embedding(10, 16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16, bias=False), nn.LayerNorm(16)
    )
    apply_swaps(rebuilt, report)
    rebuilt.load_state_dict(load_file(tmp_path / "small.safetensors"))
    x = torch.arange(10)
    torch.testing.assert_close(rebuilt(x), model(x), rtol=1e-4, atol=1e-5)
    assert report.model.params_after == sum(value.numel() for value in rebuilt.state_dict().values())
    only = einsearch(
        "project", tmp_path / "dense.safetensors", "--structure", "monarch", "--only", "3", "--format", "csv",
        "--out", tmp_path / "other.safetensors",
    )  # fmt: skip
    assert [line.split(",")[0] for line in only.out.splitlines()] == ["layer", "3"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("dense", ["--structure", "dense"], "structure dense in ffn: no layer of the model carries it"),
        ("dense", ["--structure", "btt-moe:experts=2,top=1"], "a dense matrix has no nearest mixture of experts"),
        ("dense", ["--structure", "monarch", "--only", "a"], "they choose among the weights of a .safetensors file"),
        ("file", ["--structure", "monarch", "--skip", "*"], "has no matrix to project: a: --skip *"),
        ("file", ["--structure", "monarch", "--only", "b*"], "has no matrix to project: a: no --only pattern fits"),
        ("file", ["--structure", "monarhc"], "monarhc"),
        ("broken", ["--structure", "monarch"], "cannot be read as safetensors"),
        ("missing", ["--structure", "monarch"], "missing.safetensors: no such file or folder"),
    ],
)
def test_bad_input(einsearch, run, tmp_path, source, options, message) -> None:
    save_file({"a.weight": torch.randn(4, 4), "b": torch.randn(4)}, tmp_path / "file.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678901234567890")
    path = run[0] if source == "dense" else tmp_path / f"{source}.safetensors"
    out = tmp_path / ("out" if source == "dense" else "out.safetensors")
    outcome = einsearch("project", path, "--out", out, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not out.exists()


def test_an_existing_folder_is_not_written_over(einsearch, run) -> None:
    path, _ = run
    outcome = einsearch("project", path, "--structure", "monarch", "--out", path)
    assert outcome.code == 2
    assert "it exists already" in outcome.err
    assert "projected" not in outcome.err
    (path / "plain").touch()
    outcome = einsearch("project", path, "--structure", "monarch", "--out", path / "plain" / "run")
    assert outcome.code == 2
    assert "plain' is not a folder" in outcome.err
    assert "projected" not in outcome.err
    save_file({"a.weight": torch.randn(4, 4)}, path / "file.safetensors")
    outcome = einsearch("project", path / "file.safetensors", "--structure", "monarch", "--out", path)
    assert outcome.code == 2
    assert "it is a folder, a file is needed" in outcome.err
    assert "projected" not in outcome.err


@pytest.mark.parametrize("target", ["safetensors", "dense"])
def test_weights_are_exported(einsearch, tmp_path, target) -> None:
    model = _model("btt:r=2")
    save_run(model, tmp_path / "run", BytesTokenizer())
    outcome = einsearch("export", tmp_path / "run", "--to", target, "--out", tmp_path / "model.safetensors")
    assert outcome.code == 0
    assert outcome.err.startswith(f"wrote {tmp_path / 'model.safetensors'}, ")
    loaded = load_transformer(tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-5)
    layers = [
        type(layer) for layer in (loaded.get_submodule("blocks.0.ffn.up"), loaded.get_submodule("blocks.1.ffn.down"))
    ]
    assert layers == [nn.Linear if target == "dense" else EinsumLinear] * 2


def test_a_program_is_exported_and_compared(einsearch, tmp_path) -> None:
    model = _model("btt:r=2", layers=1)
    save_run(model, tmp_path / "run", None)
    outcome = einsearch("export", tmp_path / "run", "--to", "torch-export", "--out", tmp_path / "model.pt2")
    assert outcome.code == 0
    assert outcome.err.startswith("outputs differ from the model's by ")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for shape in ((1, 1), (3, 16)):
        torch.testing.assert_close(
            program(TOKENS[:1, :1].expand(shape)), model(TOKENS[:1, :1].expand(shape)), rtol=1e-4, atol=1e-4
        )


def test_no_run_to_export(einsearch, tmp_path) -> None:
    outcome = einsearch("export", tmp_path, "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert outcome.code == 2
    assert f"{tmp_path} has no checkpoint" in outcome.err


@pytest.mark.parametrize("target", ["safetensors", "torch-export"])
def test_what_is_not_a_plain_file_stays_as_it_is(einsearch, run, tmp_path, target) -> None:
    path, _ = run
    pipe, file, link = tmp_path / "pipe", tmp_path / "real", tmp_path / "link"
    os.mkfifo(pipe)
    file.write_bytes(b"old")
    link.symlink_to("real")
    refused = einsearch("export", path, "--to", target, "--out", pipe)
    assert (refused.code, refused.err.splitlines()[0]) == (
        2, f"error: cannot write '{pipe}': it is a pipe, a plain file is needed",
    )  # fmt: skip
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    if target == "safetensors":
        assert einsearch("export", path, "--to", target, "--out", link, "--overwrite").code == 0
        assert link.is_symlink()
        assert load_transformer(file).config.width == 32
    assert sorted(item.name for item in tmp_path.iterdir()) == ["dense", "link", "pipe", "real"]


def test_a_file_of_weights_is_not_lost(einsearch, tmp_path) -> None:
    source = tmp_path / "w.safetensors"
    save_file({"a.weight": torch.randn(16, 16)}, source)
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("w.safetensors")
    before = source.read_bytes()
    arguments = ("project", source, "--structure", "monarch", "--out")
    for out, words in (
        (source, "it is the file that is read"),
        (tmp_path / "link.safetensors", "it is the file that is read"),
        (tmp_path / "pipe.safetensors", "it is a pipe"),
    ):
        refused = einsearch(*arguments, out)
        assert refused.code == 2
        assert words in refused.err
    assert source.read_bytes() == before
    assert einsearch(*arguments, tmp_path / "new" / "small.safetensors").code == 0


def test_a_run_is_written_whole_or_not_at_all(einsearch, run, tmp_path, monkeypatch) -> None:
    path, _ = run
    arguments = ("project", path, "--structure", "monarch", "--out", tmp_path / "a" / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("einsearch_cli.training.sealed.write_atomically", full)
        outcome = einsearch(*arguments)
    assert outcome.code == 2
    assert f"cannot write '{tmp_path / 'a' / 'out'}': No space left on device" in outcome.err
    assert "make room and run the same command again" in outcome.err
    assert not list((tmp_path / "a").iterdir())
    assert einsearch(*arguments).code == 0
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("structured", [False, True])
def test_a_folder_for_transformers_is_exported(einsearch, tmp_path, structured) -> None:
    transformers = pytest.importorskip("transformers")
    model = _model("btt:r=2", layers=1)
    save_run(model, tmp_path / "run", BytesTokenizer())
    words = ("export", tmp_path / "run", "--to", "hf", "--out", f"{tmp_path}/out/")
    outcome = einsearch(*words, *["--structured"] * structured)
    assert outcome.code == 0
    assert outcome.err.startswith("logits differ from the model's by ")
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert outcome.err.endswith(f"wrote {tmp_path / 'out'}, {size:,} bytes\n")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert any(isinstance(layer, EinsumLinear) for layer in loaded.modules()) == structured
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS), rtol=1e-4, atol=1e-5)
    again = einsearch(*words)
    assert (again.code, again.err.splitlines()[0]) == (
        2, f"error: cannot write '{tmp_path / 'out'}': it exists already",
    )  # fmt: skip


def test_structured_is_for_folders_of_transformers_alone(einsearch, run, tmp_path) -> None:
    path, _ = run
    refused = einsearch("export", path, "--to", "dense", "--structured", "--out", tmp_path / "a.safetensors")
    assert refused.code == 2
    assert refused.err.startswith("error: --structured with --to dense: it is for --to hf, where structured layers are")
    save_run(_model(), tmp_path / "bare", None)
    outcome = einsearch("export", tmp_path / "bare", "--to", "hf", "--out", tmp_path / "out")
    assert "the run has no tokenizer, and so has the folder" in outcome.err
    assert not (tmp_path / "out" / "tokenizer.json").exists()
