"""`rms_scale` for many experts at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.double_backward import differentiable_gradients, needs_obvious_gradients

# Axes in this file: E experts.


def expert_scales(gain_E: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """gain / Π max(1, rms(factor) / std) of every expert, (E,); differentiable.

    Each expert has a cap of its own, as if it were a layer: Qiu et al. 2024 (arXiv 2406.06248).

    >>> expert_scales(torch.tensor([3.0, 1.0]), [torch.tensor([[4.0], [1.0]])], [2.0])
    tensor([1.5000, 1.0000])
    """
    scales_E = gain_E
    for factor, std in zip(factors, stds, strict=True):
        norm_at_init, norms_E = _norms(factor, std)
        scales_E = scales_E * (norm_at_init / torch.clamp(norms_E, min=norm_at_init))
    return scales_E


def fast_expert_scales(gain_E: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """The same; factors below their cap cost their backward pass nothing."""
    result: Tensor = _ExpertScales.apply(tuple(stds), gain_E, *factors)  # type: ignore[no-untyped-call]
    return result


def _norms(factor: Tensor, std: float) -> tuple[float, Tensor]:
    """The norm at which the cap begins, and that of every expert, in float32 or wider."""
    flat = factor.reshape(factor.shape[0], -1)
    dtype = torch.promote_types(factor.dtype, torch.float32)
    return std * math.sqrt(flat.shape[1]), torch.linalg.vector_norm(flat, dim=1, dtype=dtype)


class _ExpertScales(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stds: tuple[float, ...], gain_E: Tensor, *factors: Tensor) -> Tensor:
        caps_E = torch.ones_like(gain_E, dtype=torch.promote_types(gain_E.dtype, torch.float32))
        ctx.norms, ctx.stds = [], stds
        for factor, std in zip(factors, stds, strict=True):
            norm_at_init, norms_E = _norms(factor, std)
            caps_E = caps_E * (norm_at_init / torch.clamp(norms_E, min=norm_at_init))
            # Not a comparison with >: a norm that is NaN must spread.
            ctx.norms.append(torch.where(norms_E <= norm_at_init, torch.inf, norms_E))
        ctx.save_for_backward(gain_E, caps_E, *factors)
        return gain_E * caps_E

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gain_E, caps_E, *factors = ctx.saved_tensors
        (grad_E,), stds = grads, ctx.stds
        if needs_obvious_gradients(grad_E):
            return None, *differentiable_gradients(
                lambda gain_E, *factors: expert_scales(gain_E, factors, stds),
                (gain_E, *factors),
                grad_E,
                ctx.needs_input_grad[1:],
            )
        per_square_E = -grad_E * gain_E * caps_E
        factor_grads = [
            _capped_grad(factor, per_square_E, norms_E) if wanted else None
            for factor, norms_E, wanted in zip(factors, ctx.norms, ctx.needs_input_grad[2:], strict=True)
        ]
        return None, (grad_E * caps_E).to(gain_E.dtype), *factor_grads


def _capped_grad(factor: Tensor, per_square_E: Tensor, norms_E: Tensor) -> Tensor | None:
    """The gradient of a factor; None where no expert is above its cap, which has an infinite norm here."""
    if bool(norms_E.isposinf().all()):
        return None
    weights_E = per_square_E / norms_E.square()
    return (factor * weights_E.view(-1, *[1] * (factor.ndim - 1))).to(factor.dtype)
