"""The last factor times the scale of its layer, where no product takes the scale along.

On a GPU the scale never becomes a number of Python, for which the GPU would have to be waited for; and its
operations on single elements are few: through torch's autograd they were 30 of the 53 kernels of a training step
of two factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.double_backward import differentiable_gradients, needs_obvious_gradients
from einsearch_cli.layers.contractions.kernels import kernels_for
from einsearch_cli.layers.contractions.rms_scale import any_capped, norms_at_cap, obviously_scaled_last


def scaled_last(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """The last of `factors` times gain / Π max(1, rms / std) of all; differentiable.

    >>> factors = [torch.full((1, 2, 2), 4.0), torch.full((1, 2, 2), 0.5)]
    >>> scaled_last(torch.ones(1), factors, [2.0, 1.0])[0]
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])
    """
    if gain.device.type != "cpu":
        return scaled_without_waiting(gain, factors, stds)
    if any_capped([factor.detach() for factor in factors], stds):
        return obviously_scaled_last(gain, factors, stds)
    return (factors[-1] * gain).to(factors[-1].dtype)  # the gradients through norms below their caps are zero


def scaled_without_waiting(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """The same, with all numbers on the device."""
    result: Tensor = _ScaledLast.apply(tuple(stds), gain, *factors)  # type: ignore[no-untyped-call]
    return result


class _ScaledLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stds: tuple[float, ...], gain: Tensor, *factors: Tensor) -> Tensor:
        ctx.stds, ctx.at_cap, ctx.kernels = stds, norms_at_cap(factors, stds), kernels_for(gain, factors)
        scaled, scale_and_norms = ctx.kernels.scaled_last(gain, factors, ctx.at_cap)
        ctx.save_for_backward(gain, scale_and_norms, *factors)
        return cast(Tensor, scaled)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gain, scale_and_norms, *factors = ctx.saved_tensors
        (grad,), stds, wanted = grads, ctx.stds, ctx.needs_input_grad[1:]
        if needs_obvious_gradients(grad):
            return None, *differentiable_gradients(
                lambda gain, *factors: obviously_scaled_last(gain, factors, stds), (gain, *factors), grad, wanted
            )
        found = (*map(torch.zeros_like, factors[:-1]), grad.clone(memory_format=torch.contiguous_format))
        gain_grad = ctx.kernels.add_scale_(found, gain, tuple(factors), ctx.at_cap, scale_and_norms)
        return None, *(gradient if wants else None for gradient, wants in zip((gain_grad, *found), wanted, strict=True))
