"""Swaps to layers of experts, and training of the result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from einsearch_cli.errors import LayerError
from einsearch_cli.moe import AuxiliaryLoss, StructuredMoE
from einsearch_cli.swap import SwapReport, apply_swaps, plan_swaps, swap_linear

TEXT = "btt-moe:experts=4,top=2"


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_every_linear_layer_becomes_one_of_experts_attention_included() -> None:
    model = encoder()
    report = swap_linear(model, TEXT)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, StructuredMoE)}
    assert len(layers) == len(report.replaced) == 2 * 6
    assert "layers.0.self_attn.q_proj" in layers
    assert not any(isinstance(m, nn.Linear) for m in model.modules())
    first = layers["layers.0.linear1"]
    swap = next(swap for swap in report.replaced if swap.name == "layers.0.linear1")
    own = sum(f.numel() for f in first.experts.factors.values()) + first.router.weight.numel()
    assert swap.costs.params_after == own == 4 * first.experts.sized.params + 4 * 16
    assert swap.costs.flops_after == first.flops_per_token
    assert report.model.params_after == sum(p.numel() for p in model.parameters())


def test_a_swapped_model_trains_and_its_load_is_watched() -> None:
    model = encoder()
    swap_linear(model, TEXT)
    x = torch.randn(4, 8, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with AuxiliaryLoss(model) as auxiliary:
            loss = (model(x) - x.flip(1)).square().mean()
        (loss + auxiliary.loss()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    statistics = auxiliary.statistics()
    assert [found.layer for found in statistics] == [
        n for n, m in model.named_modules() if isinstance(m, StructuredMoE)
    ]
    assert all(sum(found.load) == pytest.approx(1) and found.dropped == 0 for found in statistics)
    trained = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), trained)  # the encoder's fast path must not be taken


def test_plan_json_and_a_second_swap() -> None:
    plan = plan_swaps(encoder(), TEXT)
    assert SwapReport.from_json(plan.to_json()) == plan
    model = encoder()
    assert apply_swaps(model, SwapReport.from_json(plan.to_json())).applied
    again = plan_swaps(model, "monarch")
    assert not again.replaced
    assert set(again.skipped.values()) == {"already a StructuredMoE"}


def test_tied_layers_share_experts_and_router() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight
    report = swap_linear(model, TEXT)
    assert [swap.tied_to for swap in report.replaced] == [None, "0"]
    nn.init.normal_(model[0].router.weight)  # type: ignore[arg-type, union-attr]
    x = torch.randn(5, 16)
    torch.testing.assert_close(model[0](x), model[1](x))
    assert model[0].bias is not model[1].bias
    assert report.model.params_after == sum(p.numel() for p in model.parameters())


def test_bias_dtype_mode_and_frozen_weights_are_kept() -> None:
    model = nn.Sequential(nn.Linear(16, 8, bias=False, dtype=torch.float64)).eval()
    model[0].weight.requires_grad_(False)
    swap_linear(model, TEXT)
    layer = model[0]
    assert isinstance(layer, StructuredMoE)
    assert layer.bias is None
    assert not layer.training
    assert all(p.dtype is torch.float64 and not p.requires_grad for p in layer.parameters())


def test_whole_networks_are_not_linear_layers() -> None:
    with pytest.raises(LayerError, match="replaces whole feed-forward networks"):
        swap_linear(encoder(), "ffn-moe:experts=4,top=2")
