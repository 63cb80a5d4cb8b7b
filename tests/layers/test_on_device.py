"""The contraction of a GPU, run on the CPU, against operations that torch differentiates by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.contractions.chunked import ChunkedSettings
from einsearch_cli.layers.contractions.double_backward import obvious_layer
from einsearch_cli.layers.contractions.on_device import apply_on_device
from einsearch_cli.layers.contractions.passes import passes_for


def both(layer: EinsumLinear, x: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    """The contraction, its slow reference, and the inputs of both."""
    tokens = x.numel() // x.shape[-1]
    settings = ChunkedSettings(passes_for(layer.plan, tokens, is_cpu=False, itemsize=4), layer._stds)
    inputs = [x, layer.gain, layer._padded_bias(layer.bias), *layer._factors()]
    return lambda *inputs: apply_on_device(settings, *inputs), obvious_layer(layer.plan, layer._stds), inputs


@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_values_and_gradients(case: Any, cap: bool, shape: tuple[int, ...]) -> None:
    layer = case.layer(cap=cap)
    x = torch.randn(*shape, layer.plan.padded_in, dtype=torch.float64, requires_grad=True)
    fast, slow, inputs = both(layer, x)
    y, expected = fast(*inputs), slow(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for _ in range(2):  # the second pass computes anew what the first one overwrote
        found = torch.autograd.grad(y, inputs, grad, retain_graph=True)
        for gradient, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("number", range(5))
def test_only_what_is_wanted_is_computed(market: dict[str, Any], number: int) -> None:
    layer = market["btt-2"].layer(cap=True)
    x = torch.randn(3, layer.plan.padded_in, dtype=torch.float64)
    fast, slow, inputs = both(layer, x)
    inputs = [item.detach().requires_grad_(number == place) for place, item in enumerate(inputs)]
    (found,) = torch.autograd.grad(fast(*inputs).sum(), inputs[number])
    (wanted,) = torch.autograd.grad(slow(*inputs).sum(), inputs[number])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["btt-2", "generic", "tt"])
def test_derivatives_of_derivatives(market: dict[str, Any], name: str) -> None:
    layer = market[name].layer(cap=True)
    x = torch.randn(2, layer.plan.padded_in, dtype=torch.float64, requires_grad=True)
    fast, _, inputs = both(layer, x)
    assert torch.autograd.gradgradcheck(fast, inputs)


def test_checkpointing_keeps_no_intermediates(market: dict[str, Any]) -> None:
    layer = market["btt-2"].layer()
    fast, _, inputs = both(layer, torch.randn(3, layer.plan.padded_in, dtype=torch.float64))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        y = fast(*inputs)
    assert all(kept is None for kept in y.grad_fn.kept)
