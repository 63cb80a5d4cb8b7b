"""Layers that form their matrix at each call, against the definition and against torch's own gradients."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.forming import Forming
from einsearch_cli.layers.execution.merged import merged_weights
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU
from einsearch_cli.layers.plans.planner import Use, best_route, dense_route
from tests.layers.parts import factors_of, reference_output, route_taken
from tests.layers.test_planner import random_layer

NARROW = (
    "dense",
    "monarch",
    "kronecker",
    "low-rank",
    "tt:r=4",
    "btt:r=2",
    "btt:n=3",
    "(0.5|0.25|0.25|0.25|0.5|0.25|0)",
)


def forced(text: str, width: int = 16, **options: Any) -> EinsumLinear:
    """A layer that forms its matrix."""
    layer = EinsumLinear(width, width, text, dtype=torch.float64, **options)
    layer.route = _dense_text(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    return layer


def _dense_text(layer: EinsumLinear) -> str:
    route = dense_route(layer.sized)
    assert route is not None
    return route.text


def gradients(layer: EinsumLinear, x: Tensor, y_grad: Tensor) -> list[Tensor]:
    named = [parameter for parameter in (x, *layer.parameters()) if parameter.requires_grad]
    return list(torch.autograd.grad(layer(x), named, y_grad))


def plain_gradients(layer: EinsumLinear, x: Tensor, y_grad: Tensor) -> list[Tensor]:
    """Gradients by torch's autograd, through operations that it differentiates itself."""
    named = [parameter for parameter in (x, *layer.parameters()) if parameter.requires_grad]
    return list(torch.autograd.grad(reference_output(layer, x), named, y_grad))


@settings(max_examples=100, deadline=None)
@given(factors=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_matrix_and_gradients_of_random_structures(factors: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = random_layer("ABCD"[:factors], Random(seed))
    route = dense_route(layer.sized)
    if route is None:
        return
    stored = [torch.randn_like(factor).requires_grad_() for factor in factors_of(layer)]
    (wanted,) = merged_weights(layer.plan, route.plan, stored)
    found = Forming(layer.plan, route.plan)
    matrix, values = found.forward([factor.detach() for factor in stored])
    torch.testing.assert_close(matrix, wanted[0], rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, stored, grad)
    torch.testing.assert_close(tuple(found.backward(grad[0], values)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", NARROW)
@pytest.mark.parametrize("shape", [(7,), (3, 2)], ids=str)
def test_unused_parameters_get_no_gradient_and_change_no_other(text: str, shape: tuple[int, ...]) -> None:
    layer, y_grad = forced(text), torch.randn(*shape, 16, dtype=torch.float64)
    for number in range(3 + len(layer.factors)):
        x = torch.randn(*shape, 16, dtype=torch.float64, requires_grad=number > 0)
        for place, parameter in enumerate(layer.parameters(), start=1):
            parameter.requires_grad_(place != number)
        torch.testing.assert_close(gradients(layer, x, y_grad), plain_gradients(layer, x, y_grad))


@pytest.mark.parametrize("text", ["dense", "kronecker", "btt:r=2"])
def test_a_gain_of_zero(text: str) -> None:
    layer, x = forced(text), torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        layer.gain.zero_()
    y_grad = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(gradients(layer, x, y_grad), plain_gradients(layer, x, y_grad))


@pytest.mark.parametrize("text", NARROW)
def test_factors_may_lie_in_memory_anyhow(text: str) -> None:
    layer, x = forced(text), torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    for factor in layer.factors.values():
        factor.data = factor.data.mT.contiguous().mT
    y_grad = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(gradients(layer, x, y_grad), plain_gradients(layer, x, y_grad))


def test_the_matrix_is_formed_once_more_where_it_is_not_to_stay_in_memory() -> None:
    layer, x = forced("kronecker"), torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    y_grad = torch.randn(5, 16, dtype=torch.float64)
    expected = plain_gradients(layer, x, y_grad)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        y = layer(x)
    for retain in (True, False):
        found = torch.autograd.grad(y, [x, *layer.parameters()], y_grad, retain_graph=retain)
        torch.testing.assert_close(list(found), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = forced("btt:r=2").to(dtype)
    x, y_grad = torch.randn(64, 16, dtype=dtype, requires_grad=True), torch.randn(64, 16, dtype=dtype)
    expected = plain_gradients(layer, x, y_grad)
    tolerance = 8 * torch.finfo(dtype).eps
    for found, wanted in zip(gradients(layer, x, y_grad), expected, strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1.0, scale))


@pytest.mark.parametrize("text", NARROW[1:])
def test_under_autocast_the_matrix_is_formed_in_the_dtype_of_the_factors(text: str) -> None:
    torch.manual_seed(0)
    layer = forced(text).float()
    x, y_grad = torch.randn(64, 16, requires_grad=True), torch.randn(64, 16)
    expected = gradients(layer, x, y_grad)
    dense = layer.to_dense().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        found = gradients(layer, x, y_grad.bfloat16())
    torch.testing.assert_close(
        y, torch.nn.functional.linear(x.bfloat16(), dense, layer.bias.bfloat16()), rtol=2**-6, atol=2**-6
    )
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.dtype is torch.float32
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0.03 * max(1.0, wanted.abs().max().item()))


class Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("text", "most"), [("dense", 7), ("kronecker", 17), ("monarch", 18), ("low-rank", 17), ("tt:r=4", 29)]
)
def test_a_training_step_takes_few_operations(text: str, most: int) -> None:
    """`nn.Linear` has 10 operations in 95 µs; each further one costs 1 to 6 µs (width 32, 512 tokens)."""
    torch.manual_seed(0)
    taken = {}
    for name, layer in (("linear", nn.Linear(32, 32)), (text, EinsumLinear(32, 32, text))):
        if isinstance(layer, EinsumLinear):
            layer.route = _dense_text(layer)
        x = torch.randn(8, 32, requires_grad=True)
        layer(x).sum().backward()
        with Operations() as operations:
            y = layer(x)
            torch.autograd.grad(y, [x, *layer.parameters()], torch.ones(8, 32))
        taken[name] = operations.counts.total()
    assert taken[text] - taken["linear"] <= most


@pytest.mark.parametrize("text", NARROW[1:])
def test_narrow_layers_form_their_matrix_in_training_and_wide_ones_do_not(text: str) -> None:
    for width, is_dense in ((32, True), (48, True), (1024, False)):
        sized = EinsumLinear(width, width, text, device="meta").sized
        assert best_route(sized, 512, DEFAULT_CPU, Use.training).is_dense is is_dense, width


def test_a_layer_calls_what_forms_its_matrix() -> None:
    layer, x = EinsumLinear(32, 32, "btt:r=2"), torch.randn(512, 32, requires_grad=True)
    assert layer.explain(512, "training").executor == "dense"
    assert route_taken(layer, x) == layer.explain(512, "training").route == _dense_text(layer)
