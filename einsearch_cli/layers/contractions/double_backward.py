"""Gradients by the obvious route: they can be differentiated again, and computed for a batch of output gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.contraction import contract
from einsearch_cli.layers.contractions.rms_scale import obviously_scaled_last
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.torch_private import is_batch_of_gradients

_is_grad_enabled = torch.is_grad_enabled


def needs_obvious_gradients(grad: Tensor) -> bool:
    """Whether a backward pass is to be differentiated again, or runs for many output gradients at once.

    The first is `create_graph=True`, the second `is_grads_batched=True`.
    """
    return _is_grad_enabled() or is_batch_of_gradients(grad)


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Those of the `inputs` of a function where wanted, from that of its result, which may stand for a batch of gradients."""
    creates_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: an input may itself depend on a factor, as where a layer is applied in series. That way is not ours.
        aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        asked = [tensor for tensor, wants in zip(aliases, wanted, strict=True) if wants and tensor is not None]
        found = iter(torch.autograd.grad(function(*aliases), asked, grad, create_graph=creates_graph))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]


def obvious_layer(plan: Plan, stds: Sequence[float]) -> Callable[..., Tensor]:
    """(x, gain, bias, *factors) to the layer's output; without a gain nothing is scaled.

    x is (..., padded_in), the output (..., padded_out).
    """

    def apply(x: Tensor, gain: Tensor | None, bias: Tensor | None, *factors: Tensor) -> Tensor:
        if gain is not None:
            factors = (*factors[:-1], obviously_scaled_last(gain, factors, stds))
        y = contract(plan, x.reshape(-1, x.shape[-1]), factors)
        return (y if bias is None else y + bias).reshape(*x.shape[:-1], y.shape[1])

    return apply
