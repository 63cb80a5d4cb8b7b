"""Programs that run without einsearch, for other batches and lengths than they were made with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from einsearch_cli.errors import OutputError, RunFailedError
from einsearch_cli.export import programs, save_onnx, save_program
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(EinsumLinear(13, 16, "btt:r=2"), nn.GELU(), EinsumLinear(16, 8, "low-rank:r=3", bias=False))


def test_a_torch_program_is_the_model(tmp_path: Path) -> None:
    model = _layers()
    path = tmp_path / "model.pt2"
    assert save_program(model, path, (torch.randn(2, 13),), ({0: Dim("rows", min=1, max=64)},)) < 1e-5
    program = torch.export.load(path).module()
    for rows in (1, 2, 64):
        x = torch.randn(rows, 13)
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-5)
    assert model.training
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt2"]


def test_a_full_disk_is_named(tmp_path: Path, full_disk: None) -> None:  # noqa: ARG001
    """torch's own writer would end the process."""
    with pytest.raises(OutputError, match=r"cannot write '.*model.pt2': File too large"):
        save_program(_layers(), tmp_path / "model.pt2", (torch.randn(2, 13),))
    assert not list(tmp_path.iterdir())


def test_onnxruntime_computes_what_the_transformer_computes(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary=20, width=32, layers=1, heads=2, kv_heads=1, context=16, structure="block-shuffle:blocks=2"
    )
    model = Transformer(config)
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    path = tmp_path / "model.onnx"
    shapes = ({0: Dim("batch", min=1, max=8), 1: Dim("tokens", min=1, max=16)},)
    assert save_onnx(model, path, (torch.randint(0, 20, (2, 8)),), shapes) < 1e-5
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for shape in ((1, 1), (3, 16), (8, 5)):
        tokens = torch.randint(0, 20, shape)
        (found,) = session.run(None, {entry.name: tokens.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(tokens).detach(), rtol=1e-4, atol=1e-5)


def test_a_program_that_differs_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "serving_copy", lambda _: nn.Linear(13, 8))
    with pytest.raises(RunFailedError, match=r"gives outputs that differ from the model's by .* more than 0.001"):
        save_program(_layers(), tmp_path / "model.pt2", (torch.randn(2, 13),))


def test_without_onnxruntime_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OutputError) as caught:
        save_onnx(_layers(), tmp_path / "model.onnx", (torch.randn(2, 13),))
    assert str(caught.value) == (
        "writing ONNX needs onnx, onnxscript and onnxruntime: onnxruntime is not installed\n"
        "try: pip install 'einsearch[onnx]'"
    )
