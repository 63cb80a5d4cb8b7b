"""What compiled code calls in place of the layer's plain operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.contractions.operators import contract_operator


def operators_in(module: nn.Module, x: Tensor) -> set[str]:
    """The names of what the graph of a compiled module calls."""
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
    """What they say of shapes, of memory and of gradients."""
    layer = market[name].layer(cap=cap)
    x = torch.randn(3, layer.plan.padded_in, dtype=torch.float64, requires_grad=keeps)
    bias = layer._padded_bias(layer.bias)
    factors = [factor if keeps else factor.detach() for factor in layer._factors()]
    gain = layer.gain if keeps else layer.gain.detach()
    arguments = (x, gain, bias if keeps or bias is None else bias.detach(), factors, layer._operator_name, keeps)
    torch.library.opcheck(contract_operator, arguments)


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
