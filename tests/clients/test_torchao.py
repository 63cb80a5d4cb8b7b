"""`quantize_` of torchao on swapped models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from einsearch_cli import merged
from einsearch_cli.errors import LayerError, SpecError
from einsearch_cli.export import dense_copy, load_swapped, remember_swaps, save_swapped
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import swap_linear
from tests.clients.test_transformers import build

torchao = pytest.importorskip("torchao.quantization")
transformers = pytest.importorskip("transformers")

TOKENS = torch.arange(3, 19).reshape(2, 8)


@pytest.mark.parametrize("name", ["Llama", "Mixtral"])
def test_factors_become_8_bits_and_the_model_nearly_the_same(name: str) -> None:
    model = build(name)
    swap_linear(model, "btt:r=2")
    with torch.no_grad():
        expected = model(TOKENS).logits
    before = {key: value.numel() for key, value in model.named_parameters() if "factors" in key}
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    small = [value for value in model.parameters() if value.dtype == torch.int8]
    assert sum(value.numel() for value in small) == sum(before.values())
    with torch.no_grad():
        found = model(TOKENS).logits
        assert 0 < (found - expected).norm() < 0.05 * expected.norm()
        with merged(model):
            torch.testing.assert_close(model(TOKENS).logits, found)
        if name == "Llama":
            torch.testing.assert_close(torch.compile(model, backend="eager")(TOKENS).logits, found)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), lambda module, _: isinstance(module, EinsumLinear))
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, found)


def test_rounding_is_to_the_nearest_of_255_steps_in_every_column() -> None:
    model = nn.Sequential(EinsumLinear(16, 24, "low-rank:r=4"))
    with torch.no_grad():
        model[0].factors["A"][..., 0] = 0  # a column of zeros has no largest entry
    old = {name: factor.clone() for name, factor in model[0].factors.items()}
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    for name, factor in old.items():
        step = factor.abs().amax(dim=-2, keepdim=True) / 127
        assert ((model[0].factors[name] - factor).abs() <= step / 2 * 1.001).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_other_configs_are_refused_by_name_and_filters_are_obeyed() -> None:
    model = nn.Sequential(EinsumLinear(64, 64, "monarch"), nn.Linear(64, 64))
    with pytest.raises(LayerError, match=r"torchao's Int4WeightOnlyConfig for EinsumLinear.*(?s:.*)dense_copy"):
        torchao.quantize_(model, torchao.Int4WeightOnlyConfig())
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), lambda module, _: type(module) is nn.Linear)
    assert model[0].factors["A"].dtype == torch.float32
    assert type(model[1].weight.data) is not torch.Tensor
    dense = dense_copy(nn.Sequential(EinsumLinear(64, 64, "monarch")))
    torchao.quantize_(dense, torchao.Int8WeightOnlyConfig())
    assert type(dense[0].weight.data) is not torch.Tensor


def test_a_model_with_quantised_factors_is_not_saved(tmp_path: Path) -> None:
    model = build("Llama")
    report = swap_linear(model, "monarch")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), lambda module, _: isinstance(module, EinsumLinear))
    with pytest.raises(SpecError, match=r"the factors of model.layers.0.self_attn.q_proj are quantised"):
        save_swapped(model, report, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    model.save_pretrained(tmp_path / "other")
    remember_swaps(dense := build("Llama"), swap_linear(dense, "monarch"))
    dense.config.save_pretrained(tmp_path / "other")
    with pytest.raises(SpecError, match="the weights lack"):
        load_swapped(tmp_path / "other", transformers.AutoModelForCausalLM)
