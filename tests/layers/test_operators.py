"""The operators that compiled code calls instead of the layer's plain operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution import autograd
from einsearch_cli.layers.execution.autograd import structured_linear, structured_linear_gradients
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.executor import Executor, reference_layer
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.plans.chunking import kept_when_compiled
from einsearch_cli.layers.plans.plan import Call, Plan
from tests.layers.parts import factors_of, operator_name_of, padded_bias_of

DEVICES: dict[str, Callable[[Plan, int], Executor]] = {"cpu": CpuExecutor, "cuda": GpuExecutor}
"""Executors that compiled code calls, by the type of device."""


def operators_in(module: nn.Module, x: Tensor) -> set[str]:
    """The names of all calls in the graph of a compiled module."""
    found: set[str] = set()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        found.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compiler.reset()
    torch.compile(module, backend=backend, fullgraph=True)(x)
    return found


def test_compiled_code_calls_the_layer_as_one_operator() -> None:
    found = operators_in(EinsumLinear(16, 16, "monarch"), torch.randn(3, 16))
    assert any("einsearch" in name for name in found)
    assert not any("matmul" in name for name in found)


def test_one_matrix_is_left_to_the_compiler() -> None:
    assert not any("einsearch" in name for name in operators_in(EinsumLinear(16, 16, "dense"), torch.randn(3, 16)))


def test_exported_programs_consist_of_operators_of_torch() -> None:
    layer, x = EinsumLinear(16, 16, "monarch"), torch.randn(3, 16)
    program = torch.export.export(layer, (x,))
    assert not any("einsearch" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.filterwarnings("ignore")  # torch's own checks warn of its own deprecations
@pytest.mark.parametrize("name", ["btt-2", "tt", "generic", "low-rank", "all-of-three"])
@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_operators_keep_their_promises(market: dict[str, Any], name: str, cap: bool, keeps: bool) -> None:
    """Their declarations of shapes, memory and gradients are correct."""
    layer = market[name].layer(cap=cap)
    x = torch.randn(3, layer.plan.padded_in, dtype=torch.float64, requires_grad=keeps)
    bias = padded_bias_of(layer)
    factors = [factor if keeps else factor.detach() for factor in factors_of(layer)]
    gain = layer.gain if keeps else layer.gain.detach()
    arguments = (x, gain, bias if keeps or bias is None else bias.detach(), factors, operator_name_of(layer), keeps)
    torch.library.opcheck(structured_linear, arguments)


@pytest.mark.filterwarnings("ignore")
def test_operators_keep_their_promises_of_factors_that_lie_otherwise() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2", dtype=torch.float64)
    factors = [factor.detach().mT.contiguous().mT.requires_grad_() for factor in factors_of(layer)]
    assert not any(factor.is_contiguous() for factor in factors)
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(structured_linear, (x, layer.gain, layer.bias, factors, operator_name_of(layer), True))
    with torch.no_grad():
        _, *kept = structured_linear(x, layer.gain, layer.bias, factors, operator_name_of(layer), True)
        arguments = (torch.randn(3, 16, dtype=torch.float64), x, layer.gain, factors, kept, operator_name_of(layer))
        torch.library.opcheck(structured_linear_gradients, (*arguments, [True] * 5))


@pytest.mark.filterwarnings("ignore")
def test_operators_keep_their_promises_under_autocast() -> None:
    """Everything is in half precision except the gain and its gradient."""
    layer = EinsumLinear(16, 16, "btt:r=2")
    x, grad = torch.randn(2, 3, 16).bfloat16()
    factors, bias, gain = (
        [f.detach().bfloat16() for f in factors_of(layer)],
        layer.bias.detach().bfloat16(),
        layer.gain.detach(),
    )
    torch.library.opcheck(structured_linear, (x, gain, bias, factors, operator_name_of(layer), True))
    _, *kept = structured_linear(x, gain, bias, factors, operator_name_of(layer), True)
    torch.library.opcheck(
        structured_linear_gradients, (grad, x, gain, factors, kept, operator_name_of(layer), [True] * 5)
    )


@pytest.mark.parametrize("lies", ["transposed", "expanded", "sliced"])
def test_inputs_of_any_stride(lies: str) -> None:
    layer = EinsumLinear(16, 16, "monarch")
    inputs = {
        "transposed": torch.randn(16, 5).t(),
        "expanded": torch.randn(1, 16).expand(5, 16),
        "sliced": torch.randn(10, 32)[::2, ::2],
    }
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for grad_mode in (torch.enable_grad, torch.no_grad):
        with grad_mode():
            torch.testing.assert_close(compiled(inputs[lies]), layer(inputs[lies]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["btt-2", "tt", "generic", "all-of-three"])
@pytest.mark.parametrize("cap", [False, True])
def test_gradients_on_a_device(
    market: dict[str, Any], name: str, cap: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operators' behaviour on every device, with tensors of the CPU."""
    layer = market[name].layer(cap=cap)
    plan, operator_name = layer.plan, operator_name_of(layer)
    monkeypatch.setattr(autograd, "executor_of", lambda _, x: DEVICES[device](plan, x.shape[0]))
    monkeypatch.setattr(autograd, "kept_results", lambda *_: kept_when_compiled(plan, Call(device, torch.float64, 3)))
    x = torch.randn(3, plan.padded_in, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.gain, padded_bias_of(layer), *factors_of(layer)]
    grad = torch.randn(3, plan.padded_out, dtype=torch.float64)
    expected = torch.autograd.grad(reference_layer(plan, *inputs), inputs, grad)
    x, gain, bias, *factors = (tensor.detach() for tensor in inputs)
    _, *saved = structured_linear(x, gain, bias, factors, operator_name, True)
    before = [result.clone() for result in saved]
    found = structured_linear_gradients(grad, x, gain, factors, saved, operator_name, [True] * len(inputs))
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)
    for place, other in enumerate(expected):
        wanted = [number == place for number in range(len(inputs))]
        (ours,) = structured_linear_gradients(grad, x, gain, factors, saved, operator_name, wanted)
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(saved, before, rtol=0, atol=0)


def test_gradients_that_are_not_wanted_are_not_given() -> None:
    layer, x = EinsumLinear(16, 16, "btt:r=2"), torch.randn(3, 16)
    factors, name = factors_of(layer), operator_name_of(layer)
    with torch.no_grad():
        _, *kept = structured_linear(x, layer.gain, layer.bias, factors, name, True)
        for wanted in ([True] + [False] * 4, [False] * 3 + [True, False], [False, True, True, False, False]):
            assert len(structured_linear_gradients(x, x, layer.gain, factors, list(kept), name, wanted)) == sum(wanted)


def test_wide_intermediates_are_computed_again() -> None:
    """As in eager mode: allocating new memory in every step is expensive."""
    wide, narrow = (EinsumLinear(1024, 1024, text, device="meta").plan for text in ("btt:r=4", "monarch"))
    cpu, gpu = (Call(device, torch.float32, 1) for device in ("cpu", "cuda"))
    assert kept_when_compiled(wide, cpu) == (False,)
    assert kept_when_compiled(narrow, cpu) == kept_when_compiled(wide, gpu) == (True,)


def test_a_fixed_route_is_taken() -> None:
    layer, x = EinsumLinear(16, 16, "btt:r=2"), torch.randn(3, 16)
    layer.route = "x(AB)"
    assert not any("einsearch" in name for name in operators_in(layer, x))
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))
    layer.route = "(xA)B"
    assert any("einsearch" in name for name in operators_in(layer, x))


def test_transforms_inside_compiled_code() -> None:
    layer, x = EinsumLinear(16, 16, "monarch"), torch.randn(3, 4, 16)
    vectorized = torch.compile(lambda x: torch.func.vmap(layer)(x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(vectorized(x), layer(x))
    differentiated = torch.compile(torch.func.grad(lambda x: layer(x).square().sum()), backend="aot_eager")
    x.requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(differentiated(x.detach()), expected)


def test_operators_of_a_copied_layer_find_its_plan() -> None:
    import copy

    layer, x = EinsumLinear(16, 16, "monarch"), torch.randn(3, 16)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(copy.deepcopy(layer), backend="eager")(x), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_only_what_is_wanted_has_gradients(bias: bool) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2", bias=bias)
    next(iter(layer.factors.values())).requires_grad_(False)
    x = torch.randn(3, 16)
    layer(x).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    torch.compiler.reset()
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_autocast_reaches_the_operator() -> None:
    layer, x = EinsumLinear(16, 16, "monarch"), torch.randn(3, 16)
    torch.compiler.reset()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


def test_dtypes_that_do_not_fit_are_named() -> None:
    torch.compiler.reset()
    compiled = torch.compile(EinsumLinear(16, 16, "monarch"), backend="aot_eager")
    with pytest.raises(LayerError, match=r"input of dtype torch\.float64, parameter gain of torch\.float32"):
        compiled(torch.randn(3, 16, dtype=torch.float64))


@pytest.mark.parametrize("name", ["btt-2", "prime-in-and-out"])
def test_operators_can_be_differentiated_as_often_as_the_layer(market: dict[str, Any], name: str) -> None:
    """The compiler leaves the backward pass to torch, as with the backend `eager`."""
    torch.compiler.reset()
    layer = market[name].layer(cap=True)
    compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(3, market[name].d_in, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())

    def second(y: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), inputs)  # type: ignore[arg-type]

    torch.testing.assert_close(second(compiled(x)), second(layer(x)), rtol=1e-9, atol=1e-9)
    y = compiled(x)
    grads = torch.randn(2, *y.shape, dtype=torch.float64)
    together = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, retain_graph=True)
    for found, single in zip(together, torch.autograd.grad(y, inputs, grads[1]), strict=True):
        torch.testing.assert_close(found[1], single, rtol=1e-9, atol=1e-9)
