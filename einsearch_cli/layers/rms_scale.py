"""One number for all scaling of a layer: its gain over the rms caps of its factors.

A factor is divided by max(1, rms / init std): Qiu et al. 2024 (arXiv 2406.06248).
The caps of all factors and the gain multiply to one scalar that the contraction
folds into a product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_vector_norm, _dot = torch.linalg.vector_norm, torch.dot


def rms_scale(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """gain / Π max(1, rms(factor) / std), of the shape of the gain; differentiable.

    >>> rms_scale(torch.tensor([3.0]), [torch.full((2, 2), 4.0)], [2.0])
    tensor([1.5000])
    """
    # max(1, rms / std) as max(c, norm) / c, with c the norm at rms = std: fewer small operations.
    scale = gain
    for factor, std in zip(factors, stds, strict=True):
        norm_at_init = std * math.sqrt(factor.numel())
        norm = torch.linalg.vector_norm(factor, dtype=norm_dtype(factor.dtype))
        scale = scale * (norm_at_init / torch.clamp(norm, min=norm_at_init))
    return scale


def trainable_scale(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """`rms_scale`, on the CPU without the passes over factors that lie below their caps, whose gradient is zero."""
    if gain.device.type == "cpu" and not any(caps([factor.detach() for factor in factors], stds)[1]):
        return gain
    return rms_scale(gain, factors, stds)


def scale_value(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> float:
    """The scale as a number of Python."""
    return float(gain) * caps(factors, stds)[0]


def caps(factors: Sequence[Tensor], stds: Sequence[float]) -> tuple[float, list[float]]:
    """1 / Π max(1, rms / std), and the norms of the factors above their cap, zero for the others."""
    product, norms = 1.0, []
    for factor, std in zip(factors, stds, strict=True):
        norm_at_init = std * math.sqrt(factor.numel())
        # Not a dot product, a quarter of the time: its last bit depends on where the factor lies in memory.
        norm = _vector_norm(factor, dtype=norm_dtype(factor.dtype)).item()
        # Not a comparison with >: a norm that is NaN must spread.
        is_capped = not norm <= norm_at_init
        norms.append(norm if is_capped else 0.0)
        product *= norm_at_init / norm if is_capped else 1.0
    return product, norms


def scale_product(scale: float, x: Tensor, x_grad: Tensor | None, last: Tensor, last_grad: Tensor | None) -> Tensor:
    """scale · ∂L/∂scale, or ∂L/∂scale where the scale is zero and `last_grad` is without it.

    The result of a layer is linear in the last factor and in x, so this is ⟨W, ∂L/∂W⟩ and ⟨x, ∂L/∂x⟩; the smaller
    pair is taken.
    """
    first, second = last, last_grad
    if last_grad is None or (scale and x_grad is not None and x.numel() < last.numel()):
        first, second = x, x_grad
    assert second is not None
    dtype = norm_dtype(first.dtype)
    first, second = first.reshape(-1), second.reshape(-1)
    return _dot(first, second) if dtype is first.dtype else _dot(first.to(dtype), second.to(dtype))


def norm_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums over half-precision factors are taken in float32."""
    return dtype if dtype.itemsize >= 4 else torch.float32
