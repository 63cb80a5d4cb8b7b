"""Generated passes against the plain contraction and its derivatives, whole and in chunks of uneven length."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
from torch import Tensor

from einsearch_cli.layers.contractions.contraction import contract
from einsearch_cli.layers.contractions.generated import generated
from einsearch_cli.layers.contractions.passes import Passes
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import routes

TOKENS, SCALE = 8, 0.75


def in_chunks(plan: Plan, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], is_cpu: bool) -> Passes:
    monkeypatch.setattr("einsearch_cli.layers.contractions.passes.chunks", lambda *_: sizes)
    return Passes(plan, TOKENS, is_cpu)


@pytest.mark.parametrize("sizes", [(TOKENS,), (3, 3, 2)])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("is_cpu", [True, False])
def test_both_passes_agree_with_the_plain_contraction(
    case: Any, sizes: tuple[int, ...], keeps: bool, is_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = (
        (route.plan, plan)
        for route in routes(case.layer().sized)
        for plan in (route.plan, route.plan.few_tokens)
        if plan is not None
    )
    for obvious, plan in plans:
        x, y_grad = (torch.randn(TOKENS, width, dtype=torch.float64) for width in (plan.padded_in, plan.padded_out))
        scale, bias = torch.tensor(SCALE, dtype=torch.float64), torch.randn(plan.padded_out, dtype=torch.float64)
        weights = [torch.randn(step.weight_shape, dtype=torch.float64) for step in obvious.steps]
        inputs = [tensor.requires_grad_() for tensor in (x, scale, bias, *weights)]
        expected_y = contract(obvious, x, [*weights[:-1], weights[-1] * scale]) + bias
        expected = torch.autograd.grad(expected_y, inputs, y_grad)
        passes = in_chunks(plan, monkeypatch, sizes, is_cpu)
        memory = [x.new_empty(TOKENS, width) if keeps else None for width in plan.widths[1:-1]]
        y, x_grad = torch.empty_like(y_grad), torch.empty_like(x)
        with torch.no_grad():
            kept = passes.forward(x, y, SCALE, bias, weights, memory)
            wanted = [True] * (2 + len(weights))
            scale_grad, bias_grad, weight_grads = passes.backward(
                y_grad, x, x_grad, SCALE, weights, kept if keeps else memory, wanted
            )
        torch.testing.assert_close(y, expected_y, rtol=1e-10, atol=1e-10)
        found = [x_grad, torch.tensor(scale_grad, dtype=torch.float64), bias_grad, *weight_grads]
        for gradient, slow in zip(found, expected, strict=True):
            assert gradient is not None
            torch.testing.assert_close(gradient.reshape(slow.shape), slow, rtol=1e-10, atol=1e-9)


def test_results_of_a_whole_call_are_given_without_memory_for_them(market: dict[str, Any]) -> None:
    plan = market["btt-2"].layer().plan
    weights = [torch.randn(step.weight_shape) for step in plan.steps]
    passes = Passes(plan, TOKENS)
    kept = passes.forward(
        torch.randn(TOKENS, plan.padded_in), torch.empty(TOKENS, plan.padded_out), 1.0, None, weights, passes.unkept
    )
    assert [tensor.numel() for tensor in kept if tensor is not None] == [TOKENS * plan.widths[1]]


def test_only_what_is_wanted_is_computed(market: dict[str, Any]) -> None:
    plan = market["btt-2"].layer().plan
    weights: list[Tensor] = [torch.randn(step.weight_shape) for step in plan.steps]
    passes = Passes(plan, TOKENS)
    grad, x = torch.randn(TOKENS, plan.padded_out), torch.randn(TOKENS, plan.padded_in)
    scale_grad, bias_grad, weight_grads = passes.backward(
        grad, x, None, 1.0, weights, passes.unkept, [False, False, True, False]
    )
    assert scale_grad is bias_grad is None
    assert [gradient is None for gradient in weight_grads] == [False, True]


def test_passes_are_straight_lines(case: Any) -> None:
    """One text for any number of tokens, without a loop, in which nothing but our own names stands."""
    plan = case.layer().plan
    tree = ast.parse(generated(plan).text)
    assert not any(isinstance(node, ast.For | ast.While | ast.ListComp | ast.Import) for node in ast.walk(tree))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called <= {"add", "addmm", "as_strided", "baddbmm", "bmm", "mm", "nothing_like", "sum_repeats"}
    assert generated(plan) is generated(plan)
