"""A Tensor-Train of two cores in one kernel per pass, in Triton; `plans.two_cores` has the formula.

A program holds both cores and processes one token after another, whose intermediate never leaves the chip. So a
training step reads and writes six tensors as large as the input. Products with the intermediate in memory need twelve,
and more with a bond. Figures are in `docs/design/log/2026-11.md`, 2026-11-27.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from einsearch_cli.layers.plans.two_cores import TwoCores

_ON_EACH = 4
"""Programs per multiprocessor."""
_AHEAD = 3
"""Tokens that are loaded ahead; with a bond, the cores are loaded for each token and leave no room for this."""
_MANY_SUMS = 24_576
"""Sums of gradients beyond which the registers of four warps overflow."""
_LARGE_BLOCKS = 16_384
"""Elements of X and Y above which there is no room to load them ahead."""


def multiply(
    cores: TwoCores, x: Tensor, y: Tensor, scale: float, bias: Tensor | None, factors: Sequence[Tensor]
) -> None:
    """Compute y (tokens, features) = scale · Σ_r F_rᵀ X S_r + bias for every token; all tensors are contiguous."""
    _multiply[(programs_for(x, _ON_EACH),)](
        y, x, *factors, x if bias is None else bias, x.shape[0], scale, *_constants(cores),
        HAS_BIAS=bias is not None, STAGES=_AHEAD if cores.sizes[-1] == 1 else 1, num_warps=4,
    )  # fmt: skip


def gradients(
    cores: TwoCores, grad: Tensor, x: Tensor, factors: Sequence[Tensor], wants_bias: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of bias and factors from that of the output; sums are in float32, always in the same order."""
    p, q, m, n, r = cores.sizes
    sums = p * m + q * n + m * n
    programs = programs_for(x, 2 if sums < _MANY_SUMS else 1)
    sizes = [factor.numel() for factor in factors] + [grad.shape[1] * wants_bias]
    parts = x.new_empty(programs, sum(sizes), dtype=torch.float32)
    _sum_gradients[(r, programs)](
        parts, grad, x, *factors, x.shape[0], *_constants(cores),
        HAS_BIAS=wants_bias, STAGES=_AHEAD if p * q + m * n <= _LARGE_BLOCKS else 1,
        num_warps=8 if sums > _MANY_SUMS else 4,
    )  # fmt: skip
    first, second, bias = (total.to(x.dtype) for total in parts.sum(0).split(sizes))
    return bias if wants_bias else None, [first.view_as(factors[0]), second.view_as(factors[1])]


def programs_for(x: Tensor, on_each: int) -> int:
    return min(x.shape[0], on_each * torch.cuda.get_device_properties(x.device).multi_processor_count)


def _constants(cores: TwoCores) -> tuple[object, ...]:
    """Sizes, strides, and sizes of blocks."""
    return *cores, tuple(max(16, triton.next_power_of_2(size)) for size in cores.sizes[:-1])


@triton.jit
def _multiply(
    y, x, first, second, bias, tokens, scale,
    SIZES: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    BLOCKS: tl.constexpr, HAS_BIAS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = BLOCKS[0]
    Q: tl.constexpr = BLOCKS[1]
    M: tl.constexpr = BLOCKS[2]
    N: tl.constexpr = BLOCKS[3]
    R: tl.constexpr = SIZES[4]
    p, q, m, n = tl.arange(0, P), tl.arange(0, Q), tl.arange(0, M), tl.arange(0, N)
    x_at, in_x = p[:, None] * X[0] + q[None, :] * X[1], (p < SIZES[0])[:, None] & (q < SIZES[1])[None, :]
    y_at, in_y = m[:, None] * Y[0] + n[None, :] * Y[1], (m < SIZES[2])[:, None] & (n < SIZES[3])[None, :]
    first_at = m[:, None] * FIRST[1] + p[None, :] * FIRST[0]
    second_at = q[:, None] * SECOND[0] + n[None, :] * SECOND[1]
    in_first = (m < SIZES[2])[:, None] & (p < SIZES[0])[None, :]
    in_second = (q < SIZES[1])[:, None] & (n < SIZES[3])[None, :]
    if HAS_BIAS:
        added = tl.load(bias + y_at, mask=in_y, other=0.0).to(tl.float32)
    if R == 1:
        left = tl.load(first + first_at, mask=in_first, other=0.0)
        right = tl.load(second + second_at, mask=in_second, other=0.0)
    for token in tl.range(tl.program_id(0), tokens, tl.num_programs(0), num_stages=STAGES):
        block = tl.load(x + token * (SIZES[0] * SIZES[1]) + x_at, mask=in_x, other=0.0)
        total = tl.zeros((M, N), dtype=tl.float32)
        for r in tl.static_range(R):
            if R > 1:
                left = tl.load(first + first_at + r * FIRST[2], mask=in_first, other=0.0)
                right = tl.load(second + second_at + r * SECOND[2], mask=in_second, other=0.0)
            total = tl.dot(tl.dot(left, block).to(x.dtype.element_ty), right, total)
        total = total * scale
        if HAS_BIAS:
            total += added
        tl.store(y + token * (SIZES[2] * SIZES[3]) + y_at, total.to(y.dtype.element_ty), mask=in_y)


@triton.jit
def _sum_gradients(
    parts, grad, x, first, second, tokens,
    SIZES: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    BLOCKS: tl.constexpr, HAS_BIAS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Let every program write its sums over tokens for one value of the bond: of both factors, then of the bias."""
    r, program = tl.program_id(0), tl.program_id(1)
    P: tl.constexpr = BLOCKS[0]
    Q: tl.constexpr = BLOCKS[1]
    M: tl.constexpr = BLOCKS[2]
    N: tl.constexpr = BLOCKS[3]
    R: tl.constexpr = SIZES[4]
    p, q, m, n = tl.arange(0, P), tl.arange(0, Q), tl.arange(0, M), tl.arange(0, N)
    x_at, in_x = p[:, None] * X[0] + q[None, :] * X[1], (p < SIZES[0])[:, None] & (q < SIZES[1])[None, :]
    y_at, in_y = m[:, None] * Y[0] + n[None, :] * Y[1], (m < SIZES[2])[:, None] & (n < SIZES[3])[None, :]
    first_at = p[:, None] * FIRST[0] + m[None, :] * FIRST[1] + r * FIRST[2]
    second_at = q[:, None] * SECOND[0] + n[None, :] * SECOND[1] + r * SECOND[2]
    in_first = (p < SIZES[0])[:, None] & (m < SIZES[2])[None, :]
    in_second = (q < SIZES[1])[:, None] & (n < SIZES[3])[None, :]
    left = tl.load(first + first_at, mask=in_first, other=0.0)
    right = tl.load(second + second_at, mask=in_second, other=0.0)
    first_grad = tl.zeros((P, M), dtype=tl.float32)
    second_grad = tl.zeros((Q, N), dtype=tl.float32)
    if HAS_BIAS:
        bias_grad = tl.zeros((M, N), dtype=tl.float32)
    for token in tl.range(program, tokens, tl.num_programs(1), num_stages=STAGES):
        block = tl.load(x + token * (SIZES[0] * SIZES[1]) + x_at, mask=in_x, other=0.0)
        slope = tl.load(grad + token * (SIZES[2] * SIZES[3]) + y_at, mask=in_y, other=0.0)
        between = tl.dot(tl.trans(block), left).to(x.dtype.element_ty)
        second_grad = tl.dot(between, slope, second_grad)
        between_grad = tl.dot(right, tl.trans(slope)).to(x.dtype.element_ty)
        first_grad = tl.dot(block, between_grad, first_grad)
        if HAS_BIAS:
            bias_grad += slope.to(tl.float32)
    first_size: tl.constexpr = SIZES[0] * SIZES[2] * R
    second_size: tl.constexpr = SIZES[1] * SIZES[3] * R
    parts += program * (first_size + second_size + HAS_BIAS * SIZES[2] * SIZES[3])
    tl.store(parts + first_at, first_grad, mask=in_first)
    tl.store(parts + first_size + second_at, second_grad, mask=in_second)
    if HAS_BIAS and r == 0:
        tl.store(parts + first_size + second_size + y_at, bias_grad, mask=in_y)
