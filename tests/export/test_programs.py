"""Programs that run without einsearch, for other batches and lengths than they were made with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from einsearch_cli.errors import LayerError, OutputError, RunFailedError
from einsearch_cli.export import programs, save_onnx, save_program
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.swap import swap_linear


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


def _mixtral(experts: bool) -> Any:
    """A Mixtral with structured attention, and with structured experts or those of transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    swap_linear(model, "monarch", lambda _, name: experts or "experts" not in name)
    return model


def _texts(*shape: int) -> dict[str, Tensor]:
    """Tokens, the second text padded."""
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, -2:] = 0
    return {"input_ids": torch.randint(3, 90, shape), "attention_mask": mask}


AXES = {0: Dim("batch", min=1, max=64), 1: Dim("tokens", min=1, max=64)}


def test_a_model_of_transformers_is_a_program_of_any_batch_and_length(tmp_path: Path) -> None:
    """It runs in a process that imports torch alone; otherwise the experts of transformers have their own operation."""
    model, path = _mixtral(experts=False), tmp_path / "model.pt2"
    before = dict(vars(model.config))
    assert save_program(model, path, _texts(2, 8), dict.fromkeys(("input_ids", "attention_mask"), AXES)) < 1e-5
    assert vars(model.config) == before
    texts = _texts(3, 5)
    expected = model(**texts).logits
    torch.save((list(texts.values()), expected), tmp_path / "texts.pt")
    code = (
        "import sys, torch; inputs, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(*inputs), expected, rtol=1e-4, atol=1e-5)\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "texts.pt"], check=True)


def test_onnxruntime_computes_what_a_model_of_transformers_computes(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, path = _mixtral(experts=True), tmp_path / "model.onnx"
    assert save_onnx(model, path, (_texts(2, 8)["input_ids"],), (AXES,)) < 1e-5
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tokens = _texts(3, 5)["input_ids"]
    (found,) = session.run(None, {"input_ids": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(tokens).logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["program", "ONNX"])
def test_layers_of_experts_are_programs(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        StructuredMoE(16, 24, "btt-moe:experts=4,top=2"), FeedForwardMoE(24, 32, "ffn-moe:experts=3,top=1")
    )
    with torch.no_grad():
        for value in model.parameters():  # equal logits would let any expert win
            value.normal_(std=0.3)
    shapes = ({0: Dim("batch", min=1, max=64), 1: Dim("tokens", min=1, max=64)},)
    example, x = torch.randn(2, 5, 16), torch.randn(3, 4, 16)
    if kind == "program":
        assert save_program(model, tmp_path / "model", (example,), shapes) < 1e-5
        found = torch.export.load(tmp_path / "model").module()(x)
    else:
        runtime = pytest.importorskip("onnxruntime")
        assert save_onnx(model, tmp_path / "model", (example,), shapes) < 1e-5
        session = runtime.InferenceSession(str(tmp_path / "model"), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-4, atol=1e-5)


class DependsOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class WithoutOnnx(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x)


def test_what_cannot_be_traced_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        LayerError, match=r"^torch.export cannot trace the model: \w+: .*data-dependent.*\n.*draft_export"
    ):
        save_program(DependsOnValues(), tmp_path / "model.pt2", (torch.randn(3),))
    pytest.importorskip("onnxruntime")
    with pytest.raises(LayerError, match=r"as ONNX: ONNX does not have its operation aten\.\w+\ntry: use save_program"):
        save_onnx(WithoutOnnx(), tmp_path / "model.onnx", (torch.eye(3),))
    assert not list(tmp_path.iterdir())


def test_a_program_with_other_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
