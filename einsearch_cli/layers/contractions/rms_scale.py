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
_SUMMED = (torch.float32, torch.float64)
"""What is summed as it is."""
_FEW = 1 << 14
"""Elements whose product takes less time to write than two views."""


def rms_scale(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """gain / Π max(1, rms(factor) / std), of the shape of the gain, in float32 at least; differentiable.

    >>> rms_scale(torch.tensor([3.0]), [torch.full((2, 2), 4.0)], [2.0])
    tensor([1.5000])
    """
    # max(1, rms / std) as max(c, norm) / c, with c the norm at rms = std: fewer small operations.
    scale = gain.to(norm_dtype(gain.dtype))
    for factor, std in zip(factors, stds, strict=True):
        norm_at_init = std * math.sqrt(factor.numel())
        norm = torch.linalg.vector_norm(factor, dtype=norm_dtype(factor.dtype))
        scale = scale * (norm_at_init / torch.clamp(norm, min=norm_at_init))
    return scale


def obviously_scaled_last(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """The last factor times `rms_scale`, by operations that torch differentiates by itself."""
    return (factors[-1] * rms_scale(gain, factors, stds)).to(factors[-1].dtype)


def any_capped(factors: Sequence[Tensor], stds: Sequence[float]) -> bool:
    """Whether the rms of some factor is above its init std."""
    return any(caps(factors, norms_at_cap(factors, stds))[1])


def scale_value(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> float:
    """The scale as a number of Python."""
    return float(gain) * caps(factors, norms_at_cap(factors, stds))[0]


def caps(factors: Sequence[Tensor], at_cap: Sequence[float]) -> tuple[float, list[float]]:
    """1 / Π max(1, rms / std), and the norms of the factors above their cap, zero for the others; see `norms_at_cap`."""
    product, norms = 1.0, []
    for factor, norm_at_cap in zip(factors, at_cap):  # noqa: B905  (0.2 µs)
        # To name the factor's own dtype takes 1 of 8 µs. Not by a dot product, whose last bit depends on where the factor
        # lies in memory.
        norm = (_vector_norm(factor) if factor.dtype in _SUMMED else _vector_norm(factor, dtype=torch.float32)).item()
        if norm <= norm_at_cap:
            norms.append(0.0)
        else:  # also a norm that is NaN, which must spread
            norms.append(norm)
            product *= norm_at_cap / norm
    return product, norms


def norms_at_cap(factors: Sequence[Tensor], stds: Sequence[float]) -> tuple[float, ...]:
    """Of factors whose rms is their init std."""
    return tuple(std * math.sqrt(factor.numel()) for factor, std in zip(factors, stds, strict=True))


def scale_product(scale: float, x: Tensor, x_grad: Tensor | None, last: Tensor, last_grad: Tensor | None) -> float:
    """scale · ∂L/∂scale, or ∂L/∂scale where the scale is zero and `last_grad` is without it.

    The result of a layer is linear in the last factor and in x, so this is ⟨W, ∂L/∂W⟩ and ⟨x, ∂L/∂x⟩; the smaller
    pair is taken.
    """
    first, second = last, last_grad
    if last_grad is None or (scale and x_grad is not None and x.numel() < last.numel()):
        first, second = x, x_grad
    assert second is not None
    if first.dtype not in _SUMMED:
        first, second = first.float(), second.float()
    # A number of Python: each operation on a tensor of one element takes a small layer up to 20 µs. And no views of few
    # elements: 2 to 6 µs.
    return (first * second).sum().item() if first.numel() <= _FEW else _dot(first.flatten(), second.flatten()).item()


def norm_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums over half-precision factors are taken in float32."""
    return dtype if dtype.itemsize >= 4 else torch.float32
