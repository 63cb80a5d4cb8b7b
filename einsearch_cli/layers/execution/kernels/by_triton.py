"""Kernels for small work around the products on a GPU, in Triton; `kernels_for` chooses between them and torch.

Sums are taken in float32, from partial sums, always in the same order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PROGRAMS = 256
"""Number of partial sums of a factor."""
_BLOCK = 2048
"""Number of elements that a program reads at once."""
_COLUMNS, _ROWS = 1024, 8
"""Number of elements to which a program adds a bias."""


def add_bias_(y: Tensor, bias: Tensor) -> None:
    """Add the bias to y (tokens, features) in place; 2.9 times as fast as torch's broadcast (H200, bfloat16)."""
    tokens, features = y.shape
    _add_bias[(triton.cdiv(tokens, _ROWS), triton.cdiv(features, _COLUMNS))](
        y, bias, tokens, features, ROWS=_ROWS, COLUMNS=_COLUMNS
    )


def scaled_last(gain: Tensor, factors: tuple[Tensor, ...], norms_at_cap: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The last factor times gain / Π max(1, norm / norm at cap), and the values that `add_scale_` needs."""
    count, last = len(factors), factors[-1]
    partials, scale_and_norms = (
        gain.new_empty(count * MOST_PROGRAMS, dtype=torch.float32),
        gain.new_empty(count + 2, dtype=torch.float32),
    )
    scaled = torch.empty_like(last)
    numels = tuple(factor.numel() for factor in factors)
    sizes = {"COUNT": count, "PROGRAMS": MOST_PROGRAMS, "BLOCK": _BLOCK}
    _squares[(MOST_PROGRAMS, count)](partials, factors, numels, **sizes)
    _scale_last[(MOST_PROGRAMS,)](scaled, scale_and_norms, partials, gain, last, numels[-1], norms_at_cap, **sizes)
    return scaled, scale_and_norms


def add_scale_(
    grads: tuple[Tensor, ...],
    gain: Tensor,
    factors: tuple[Tensor, ...],
    norms_at_cap: tuple[float, ...],
    scale_and_norms: Tensor,
) -> Tensor:
    """Turn gradients with respect to scaled factors into those of the unscaled ones, in place; returns the gain's."""
    partials, gain_grad = gain.new_empty(MOST_PROGRAMS, dtype=torch.float32), torch.empty_like(gain)
    numels = tuple(factor.numel() for factor in factors)
    _products[(MOST_PROGRAMS,)](partials, grads[-1], factors[-1], numels[-1], PROGRAMS=MOST_PROGRAMS, BLOCK=_BLOCK)
    _add_scale[(MOST_PROGRAMS, len(factors))](
        gain_grad, grads, scale_and_norms, partials, factors, numels, norms_at_cap,
        COUNT=len(factors), PROGRAMS=MOST_PROGRAMS, BLOCK=_BLOCK,
    )  # fmt: skip
    return gain_grad


@triton.jit
def _add_bias(y, bias, tokens, features, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < tokens)[:, None] & (columns < features)[None, :]
    places = y + rows.to(tl.int64)[:, None] * features + columns[None, :]
    added = tl.load(bias + columns, mask=columns < features).to(tl.float32)
    total = tl.load(places, mask=inside).to(tl.float32) + added[None, :]
    tl.store(places, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sum_of_products(a, b, numel, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of products over a program's part of two tensors."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for begin in range(tl.program_id(0) * BLOCK, numel, PROGRAMS * BLOCK):
        places = begin + tl.arange(0, BLOCK)
        left = tl.load(a + places, mask=places < numel, other=0.0).to(tl.float32)
        right = tl.load(b + places, mask=places < numel, other=0.0).to(tl.float32)
        total += left * right
    return tl.sum(total, axis=0)


@triton.jit
def _products(partials, a, b, numel, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    tl.store(partials + tl.program_id(0), _sum_of_products(a, b, numel, PROGRAMS, BLOCK))


@triton.jit
def _squares(partials, factors, numels, COUNT: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    for number in tl.static_range(COUNT):
        if tl.program_id(1) == number:
            total = _sum_of_products(factors[number], factors[number], numels[number], PROGRAMS, BLOCK)
            tl.store(partials + number * PROGRAMS + tl.program_id(0), total)


@triton.jit
def _scale_last(
    scaled, scale_and_norms, partials, gain, last, numel, norms_at_cap,
    COUNT: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write all norms, the product of the caps, and the scale to `scale_and_norms`."""
    is_first = tl.program_id(0) == 0
    caps = 1.0
    for number in tl.static_range(COUNT):
        parts = tl.load(partials + number * PROGRAMS + tl.arange(0, PROGRAMS))
        norm = tl.sqrt(tl.sum(parts, axis=0))
        # A comparison with > would not spread a norm that is NaN.
        caps *= tl.where(norm <= norms_at_cap[number], 1.0, norms_at_cap[number] / norm)
        tl.store(scale_and_norms + number, norm, mask=is_first)
    scale = caps * tl.load(gain).to(tl.float32)
    tl.store(scale_and_norms + COUNT, caps, mask=is_first)
    tl.store(scale_and_norms + COUNT + 1, scale, mask=is_first)
    for begin in range(tl.program_id(0) * BLOCK, numel, PROGRAMS * BLOCK):
        places = begin + tl.arange(0, BLOCK)
        value = tl.load(last + places, mask=places < numel).to(tl.float32) * scale
        tl.store(scaled + places, value.to(scaled.dtype.element_ty), mask=places < numel)


@triton.jit
def _add_scale(
    gain_grad, grads, scale_and_norms, partials, factors, numels, norms_at_cap,
    COUNT: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add each factor's gradient through its norm if that is above the cap; the last factor's is scaled before."""
    per_scale = tl.sum(tl.load(partials + tl.arange(0, PROGRAMS)), axis=0)
    caps, scale = tl.load(scale_and_norms + COUNT), tl.load(scale_and_norms + COUNT + 1)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(gain_grad, (per_scale * caps).to(gain_grad.dtype.element_ty))
    for number in tl.static_range(COUNT):
        if tl.program_id(1) == number:
            norm, grad = tl.load(scale_and_norms + number), grads[number]
            slope = tl.where(norm <= norms_at_cap[number], 0.0, -per_scale * scale / (norm * norm))
            times = scale if number == COUNT - 1 else 1.0
            if (number == COUNT - 1) | (slope != 0.0):
                for begin in range(tl.program_id(0) * BLOCK, numels[number], PROGRAMS * BLOCK):
                    places = begin + tl.arange(0, BLOCK)
                    inside = places < numels[number]
                    value = tl.load(grad + places, mask=inside).to(tl.float32) * times
                    value += tl.load(factors[number] + places, mask=inside).to(tl.float32) * slope
                    tl.store(grad + places, value.to(grad.dtype.element_ty), mask=inside)
