"""Swaps that keep the weights: a model whose matrices have the structure already computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import project_
from einsearch_cli.swap import SwapReport, apply_swaps, plan_swaps, swap_linear

FULL = "low-rank:r=16"
"""Structures of full rank at the widths below, so that nothing is lost."""


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16, bias=False)).double()


def test_at_full_rank_the_model_stays_the_same() -> None:
    model = _network()
    x = torch.randn(3, 16, dtype=torch.float64)
    y = model(x)
    report = swap_linear(model, FULL, project=True)
    assert isinstance(model[0], EinsumLinear)
    torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)
    assert [swap.relative_error for swap in report.replaced] == [pytest.approx(0, abs=1e-12)] * 2


def test_the_report_has_the_errors_and_keeps_them_in_json() -> None:
    model = _network()
    layer = EinsumLinear(16, 32, "monarch", dtype=torch.float64)
    expected = project_(layer, model[0].weight).relative_error
    report = swap_linear(model, "monarch", project=True)
    assert report.replaced[0].relative_error == pytest.approx(expected)
    assert 0.5 < expected < 1
    assert f"FLOPs, relative error {expected:.4f}," in str(report)
    assert SwapReport.from_json(report.to_json()) == report
    assert [swap.relative_error for swap in swap_linear(_network(), "monarch").replaced] == [None, None]
    stored: Any = report.to_json()
    for swap in stored["replaced"]:
        del swap["relative_error"]  # as reports were before
    assert SwapReport.from_json(stored).replaced[0].relative_error is None


def test_projections_of_an_attention_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.MultiheadAttention(16, 2, batch_first=True)).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    expected, _ = model[0](x, x, x)
    swap_linear(model, FULL, project=True)
    torch.testing.assert_close(model[0](x, x, x)[0], expected, rtol=1e-10, atol=1e-10)


def test_tied_layers_keep_one_matrix_and_two_biases() -> None:
    first, second = nn.Linear(16, 16).double(), nn.Linear(16, 16).double()
    second.weight = first.weight
    model = nn.Sequential(first, second)
    x = torch.randn(3, 16, dtype=torch.float64)
    y = model(x)
    report = swap_linear(model, FULL, project=True)
    torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)
    assert [swap.relative_error is None for swap in report.replaced] == [False, True]


def test_a_mixture_of_experts_is_refused_before_anything_is_replaced() -> None:
    model = _network()
    with pytest.raises(LayerError) as caught:
        swap_linear(model, "btt-moe:experts=2,top=1", project=True)
    assert str(caught.value).endswith(
        " with project: a dense matrix has no nearest mixture of experts\n"
        "try: give a structure without experts, or train from scratch"
    )
    assert isinstance(model[0], nn.Linear)


def test_weights_that_are_not_finite_are_refused_before_anything_is_replaced() -> None:
    model = _network()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(LayerError) as caught:
        apply_swaps(model, plan_swaps(model, "monarch"), project=True)
    assert str(caught.value) == (
        "the weight of 2 has entries that are NaN or infinite: nothing is near to it\n"
        "try: leave that layer by a filter, or start from an earlier checkpoint"
    )
    assert isinstance(model[0], nn.Linear)
