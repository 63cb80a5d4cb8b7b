"""The last factor times the scale of its layer, where no product takes the scale along.

On a GPU the scale never becomes a number of Python, for which the GPU would have to be waited for; and its
operations on single elements are few: through torch's autograd they were 30 of the 53 kernels of a training step
of two factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.double_backward import differentiable_gradients, needs_obvious_gradients
from einsearch_cli.layers.rms_scale import any_capped, norm_dtype, obviously_scaled_last


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
        dtype = norm_dtype(gain.dtype)
        norms = torch.stack(torch._foreach_norm(factors, dtype=norm_dtype(factors[0].dtype))).to(dtype)
        at_cap = _norms_at_cap(stds, tuple(factor.numel() for factor in factors), norms.dtype, norms.device)
        capped = torch.maximum(norms, at_cap)
        product_of_caps = (at_cap / capped).prod()
        scale = gain.to(dtype) * product_of_caps
        ctx.stds = stds
        ctx.save_for_backward(gain, norms, at_cap, product_of_caps, scale, *factors)
        return _times(factors[-1], scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gain, norms, at_cap, product_of_caps, scale, *factors = ctx.saved_tensors
        (grad,), wanted = grads, ctx.needs_input_grad[1:]
        if needs_obvious_gradients(grad):
            stds = ctx.stds
            return None, *differentiable_gradients(
                lambda gain, *factors: obviously_scaled_last(gain, factors, stds), (gain, *factors), grad, wanted
            )
        last = factors[-1]
        per_scale = (grad * last).sum(dtype=norms.dtype)
        # Not a comparison with >: a norm that is NaN must spread.
        slopes = (per_scale * scale / -norms.square()).masked_fill(norms <= at_cap, 0.0)
        gradients: list[Tensor | None] = [
            factor * slope if wants else None
            for factor, slope, wants in zip(factors, slopes.unbind(), wanted[1:], strict=True)
        ]
        if wanted[-1]:
            gradients[-1] = _times(grad, scale).addcmul_(last, slopes[-1].to(last.dtype))
        gain_grad = (per_scale * product_of_caps).to(gain.dtype).view(gain.shape) if wanted[0] else None
        return None, gain_grad, *gradients


def _times(tensor: Tensor, scale: Tensor) -> Tensor:
    """In the tensor's dtype, the scale not rounded to it before."""
    return torch.mul(tensor, scale, out=torch.empty_like(tensor))


@lru_cache(maxsize=1024)
def _norms_at_cap(stds: tuple[float, ...], numels: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Norms of factors whose rms is their init std; kept, as numbers of Python take long to a GPU."""
    return torch.tensor(
        [std * math.sqrt(numel) for std, numel in zip(stds, numels, strict=True)], dtype=dtype, device=device
    )
