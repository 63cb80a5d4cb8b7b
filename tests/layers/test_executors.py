"""Every executor, on CPU tensors, compared with operations that torch differentiates itself."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.dense import DenseExecutor
from einsearch_cli.layers.execution.executor import Executor, Saved
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.execution.products import memory_for_x_grad
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.planner import dense_route, routes
from tests.layers.test_planner import random_layer

TOKENS = 8
KINDS = ("cpu", "gpu", "dense")


def executor_of(layer: EinsumLinear, kind: str, tokens: int) -> Executor | None:
    """The executor; None if the layer does not use one matrix."""
    if kind == "dense":
        route = dense_route(layer.sized)
        return None if route is None else DenseExecutor(layer.plan, route.plan)
    return {"cpu": CpuExecutor, "gpu": GpuExecutor}[kind](layer.plan, tokens)


def inputs_of(layer: EinsumLinear, *shape: int) -> list[Tensor]:
    """Leaves x, gain, bias and factors with realistic values."""
    x = torch.randn(*shape, layer.plan.padded_in, dtype=torch.float64)
    bias = torch.randn(layer.plan.padded_out, dtype=torch.float64)
    factors = [layer.factors[step.factor].detach() for step in layer.plan.steps]
    return [tensor.clone().requires_grad_() for tensor in (x, layer.gain.detach(), bias, *factors)]


def in_chunks(plan: Plan, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> CpuExecutor:
    monkeypatch.setattr("einsearch_cli.layers.execution.cpu.chunks", lambda *_: sizes)
    return CpuExecutor(plan, sum(sizes))


def assert_gradients(executor: Executor, inputs: list[Tensor]) -> None:
    """Check values and gradients against the reference, also those of a second backward pass."""
    expected, y = executor.reference(*inputs), execute(executor, *inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(executor.forward(*inputs[:3], inputs[3:])[0], y)
    grad = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for _ in range(2):  # the second pass recomputes what the first one overwrote
        for found, other in zip(torch.autograd.grad(y, inputs, grad, retain_graph=True), wanted, strict=True):
            torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_values_and_gradients(case: Any, kind: str, cap: bool, shape: tuple[int, ...]) -> None:
    layer = case.layer(cap=cap)
    inputs = inputs_of(layer, *shape)
    executor = executor_of(layer, kind, inputs[0].numel() // layer.plan.padded_in)
    if executor is not None:
        assert_gradients(executor, inputs)


@settings(max_examples=100, deadline=None)
@given(factors=st.integers(1, 4), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS), tokens=st.integers(0, 9))
def test_random_structures(factors: int, seed: int, kind: str, tokens: int) -> None:
    torch.manual_seed(seed)
    layer = random_layer("ABCD"[:factors], Random(seed))
    executor = executor_of(layer, kind, tokens)
    if executor is not None:
        assert_gradients(executor, inputs_of(layer, tokens))


@pytest.mark.parametrize("sizes", [(TOKENS,), (3, 3, 2)])
@pytest.mark.parametrize("keeps", [True, False])
def test_chunks_of_uneven_length(
    case: Any, sizes: tuple[int, ...], keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All plans of all routes are tested, with saved results and with recomputed ones."""
    plans = (
        plan for route in routes(case.layer().sized) for plan in (route.plan, route.plan.few_tokens) if plan is not None
    )
    for plan in plans:
        shapes = [(TOKENS, plan.padded_in), (1,), (plan.padded_out,), *(step.weight_shape for step in plan.steps)]
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        executor = in_chunks(plan, monkeypatch, sizes)
        executor.keeps = (keeps,) * len(executor.keeps)
        assert_gradients(executor, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", range(5))
def test_only_what_is_wanted_is_computed(market: dict[str, Any], kind: str, place: int) -> None:
    layer = market["btt-2"].layer(cap=True)
    executor = executor_of(layer, kind, 3)
    assert executor is not None
    inputs = [item.detach().requires_grad_(number == place) for number, item in enumerate(inputs_of(layer, 3))]
    (found,) = torch.autograd.grad(execute(executor, *inputs).sum(), inputs[place])
    (wanted,) = torch.autograd.grad(executor.reference(*inputs).sum(), inputs[place])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    grad = torch.randn(3, layer.plan.padded_out, dtype=torch.float64)
    with torch.no_grad():
        given = executor.backward(inputs, None, grad, [number == place for number in range(5)])
    assert [gradient is not None for gradient in given] == [number == place for number in range(5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["btt-2", "generic", "tt"])
def test_derivatives_of_derivatives(market: dict[str, Any], name: str, kind: str) -> None:
    layer = market[name].layer(cap=True)
    executor = executor_of(layer, kind, 2)
    if executor is not None:
        assert torch.autograd.gradgradcheck(lambda *inputs: execute(executor, *inputs), inputs_of(layer, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_of_zero(market: dict[str, Any], kind: str) -> None:
    layer = market["btt-2"].layer(cap=True)
    with torch.no_grad():
        layer.gain.zero_()
    executor = executor_of(layer, kind, 3)
    assert executor is not None
    assert_gradients(executor, inputs_of(layer, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_saves_nothing(market: dict[str, Any], kind: str) -> None:
    layer = market["btt-2"].layer()
    executor, inputs = executor_of(layer, kind, 3), inputs_of(layer, 3)
    saved: list[Any] = []
    assert executor is not None
    forward: Callable[..., Any] = executor.forward
    executor.forward = lambda *words: [saved.append(found := forward(*words)), found][1]  # type: ignore[method-assign,func-returns-value]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        y = execute(executor, *inputs)
    assert [item for _, item in saved] == [None]
    expected = torch.autograd.grad(executor.reference(*inputs).sum(), inputs)
    for found, wanted in zip(torch.autograd.grad(y.sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_x_takes_the_memory_of_the_first_result() -> None:
    """At a large batch these are the largest tensors of a layer, and two of them need not exist at once."""
    x, result = torch.randn(4, 6), torch.randn(2, 12)
    found = memory_for_x_grad(x, Saved(None, [result, None]))
    assert (found.shape, found.data_ptr()) == (x.shape, result.data_ptr())
    others = [
        Saved(None, [result], may_overwrite=False),
        Saved(None, [None, result]),
        Saved(None, [torch.randn(2, 6)]),
        Saved(None, []),
    ]
    for saved in others:
        found = memory_for_x_grad(x, saved)
        assert found.shape == x.shape
        assert found.data_ptr() not in {tensor.data_ptr() for tensor in saved.results if tensor is not None}
    layer = EinsumLinear(16, 16, "monarch")
    executor, x = CpuExecutor(layer.plan, 3), torch.randn(3, 16)
    inputs = x, layer.gain.detach(), None, *(factor.detach() for factor in layer._factors())
    _, kept = executor.forward(*inputs[:3], inputs[3:], keeps=[True])
    assert kept is not None
    (memory,) = kept.results
    assert executor.backward(inputs, kept, torch.randn(3, 16), [True] * 5)[0].data_ptr() == memory.data_ptr()


def test_one_switch_chooses() -> None:
    layer = EinsumLinear(64, 64, "btt:r=2", device="meta")
    dense = dense_route(layer.sized)
    assert dense is not None
    kinds = {
        (device, is_formed): type(
            executor_for(
                dense.plan if is_formed else layer.plan,
                Call(device, torch.float32, 3),
                layer.plan if is_formed else None,
            )
        )
        for device, is_formed in (("cpu", False), ("cuda", False), ("meta", False), ("cpu", True))
    }
    assert kinds == {
        ("cpu", False): CpuExecutor,
        ("cuda", False): GpuExecutor,
        ("meta", False): GpuExecutor,
        ("cpu", True): DenseExecutor,
    }
