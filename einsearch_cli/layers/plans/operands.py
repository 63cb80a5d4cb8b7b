"""Sizes and strides of every operand of a plan, for a number of tokens, and products that write where the next one reads.

Each operand of a product is one strided view of contiguous memory, where reading it by the plan takes up to four views; a
small layer spends most of its time between its products.

A batched product of cuBLAS writes its blocks anywhere in memory, as long as one axis of each block lies without gaps. So
on a GPU most copies that rearrange an intermediate, the output or the input's gradient fall away: the product before writes
the rearranged memory itself. MKL would leave its batched path for it.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plans.plan import TOKENS, Plan, Reading, Step, product_of

_ANY_TOKENS = 1009
"""Tokens for questions that all numbers of tokens answer alike."""


class View(NamedTuple):
    """Sizes and strides of axes in contiguous memory, in elements: arguments of `as_strided`."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def swapped(self) -> View:
        """The last two axes exchanged."""
        *sizes, i, j = self.sizes
        *strides, p, q = self.strides
        return View((*sizes, j, i), (*strides, q, p))

    @property
    def is_contiguous(self) -> bool:
        return self == contiguous(self.sizes)


class Operand(NamedTuple):
    """Blocks of an activation or gradient, for a product with a factor and for the gradient of the factor."""

    copy: View | None
    """What is copied before, as no view of the memory serves a product."""
    by_factor: View
    """For the product with the factor, in the memory or in the copy."""
    by_rows: View
    """For the gradient of the factor."""


class StepOperands(NamedTuple):
    """The operands of the three products of one step."""

    rows: Operand
    """`by_factor` is (B, R, K), or (B, K, R) where the result is feature-major; `by_rows` (B, K, R) or swapped."""
    result: View
    grad: Operand
    """`by_factor` is (B, R, N), or (B, N, R) where the rows' gradient is feature-major; `by_rows` (B, R, N) or swapped."""
    rows_grad: View


class PlanOperands(NamedTuple):
    """The operands of all steps, and what is copied at the end of each pass."""

    steps: tuple[StepOperands, ...]
    write: tuple[View, View] | None
    """The last result with the axes of the output, in the result's memory and in the output's."""
    write_grad: tuple[View, View] | None
    """The first rows' gradient with the axes of the input's gradient, in its own memory and in that one's."""


@lru_cache(maxsize=4096)
def plan_operands(plan: Plan, is_cpu: bool, tokens: int = _ANY_TOKENS) -> PlanOperands:
    """All operands for this many tokens.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> plan = EinsumLinear(64, 64, "monarch", device="meta").plan
    >>> on_cpu = plan_operands(plan, is_cpu=True, tokens=10)
    >>> tuple(on_cpu.steps[0].rows.by_factor)  # blocks of 8 features
    ((8, 8, 10), (8, 1, 64))
    >>> result, wanted = on_cpu.write
    >>> tuple(result)  # copied from blocks of all tokens
    ((10, 8, 8), (8, 80, 1))
    >>> on_gpu = plan_operands(plan, is_cpu=False, tokens=10)
    >>> on_gpu.write, tuple(on_gpu.steps[-1].result)  # blocks written into the output
    (None, ((8, 10, 8), (8, 64, 1)))
    """
    steps = [_step_operands(step, tokens) for step in plan.steps]
    write, write_grad = (_writing(reading, tokens) for reading in (plan.write, plan.write_grad))
    if is_cpu or not tokens:
        return PlanOperands(tuple(steps), write, write_grad)
    for number, later in enumerate(steps[1:]):
        before = steps[number]
        into = _carried(before.result, later.rows.copy)
        if into is not None:
            steps[number] = before = before._replace(result=into)
            steps[number + 1] = later = later._replace(rows=later.rows._replace(copy=None))
        into = _carried(later.rows_grad, before.grad.copy)
        if into is not None:
            steps[number] = before._replace(grad=before.grad._replace(copy=None))
            steps[number + 1] = later._replace(rows_grad=into)
    into = _carried(steps[-1].result, write and write[0])
    if into is not None:
        steps[-1], write = steps[-1]._replace(result=into), None
    into = _carried(steps[0].rows_grad, write_grad and write_grad[0])
    if into is not None:
        steps[0], write_grad = steps[0]._replace(rows_grad=into), None
    return PlanOperands(tuple(steps), write, write_grad)


def contiguous(sizes: Sequence[int]) -> View:
    """Sizes with the strides of contiguous memory."""
    return View(tuple(sizes), tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))))


def _step_operands(step: Step, tokens: int) -> StepOperands:
    """With every result contiguous."""
    rows_copy, rows = _blocks(step.rows, tokens)
    grad_copy, grad = _blocks(step.grad, tokens)
    is_swapped = step.weight_grad_is_swapped  # (B, N, R) times (B, R, K) in place of (B, K, R) times (B, R, N)
    batch, r, k, n = step.extents(tokens)
    b = (batch,) if step.is_batched else ()
    return StepOperands(
        rows=Operand(rows_copy, rows.swapped if step.is_feature_major else rows, rows if is_swapped else rows.swapped),
        result=contiguous((*b, n, r) if step.is_feature_major else (*b, r, n)),
        grad=Operand(
            grad_copy, grad.swapped if step.grad_is_feature_major else grad, grad.swapped if is_swapped else grad
        ),
        rows_grad=contiguous((*b, k, r) if step.grad_is_feature_major else (*b, r, k)),
    )


def _writing(reading: Reading | None, tokens: int) -> tuple[View, View] | None:
    """A last result with the axes of what is to be written, in its own memory and in that."""
    if reading is None:
        return None
    source = _axes(reading, tokens)
    return source, contiguous(source.sizes)


def _blocks(reading: Reading, tokens: int) -> tuple[View | None, View]:
    """What is copied, if anything, and the blocks in memory or copy."""
    axes = _axes(reading, tokens)
    sizes = dict(zip(reading.order, axes.sizes, strict=True))
    strides = dict(zip(reading.order, (contiguous(axes.sizes) if reading.is_copy else axes).strides, strict=True))
    # Each block is one run of the memory or copy, so its innermost stride is that of all.
    blocks = View(
        tuple(product_of(group, sizes) for group in reading.groups),
        tuple(strides[group[-1]] if group else 1 for group in reading.groups),
    )
    return (axes if reading.is_copy else None), blocks


def _axes(reading: Reading, tokens: int) -> View:
    """The axes of a reading in their order."""
    sizes = [tokens if axis == TOKENS else reading.sizes[axis] for axis in reading.memory]
    at = [reading.memory.index(axis) for axis in reading.order]
    strides = contiguous(sizes).strides
    return View(tuple(sizes[place] for place in at), tuple(strides[place] for place in at))


def _carried(result: View, copied: View | None) -> View | None:
    """The blocks of a contiguous result as they lie in a contiguous copy of it; None if no product can write them so.

    `copied` has the axes of the copy in their order, in the memory of the result.

    >>> blocks = contiguous((8, 10, 4))
    >>> tuple(_carried(blocks, View((10, 8, 4), (4, 40, 1))))
    ((8, 10, 4), (4, 32, 1))
    """
    if copied is None:
        return None
    # Axes of the copy from the inside of the result outwards, as (stride in the result, size, stride in the copy). Every
    # axis of the result is then made of the first of these, as far as they also follow each other in the copy.
    moved = zip(copied.strides, copied.sizes, contiguous(copied.sizes).strides, strict=True)
    axes = [(size, stride) for _, size, stride in sorted(item for item in moved if item[1] != 1)]
    strides: list[int] = []
    for size in reversed(result.sizes):
        stride = _taken(size, axes)
        if stride is None:
            return None
        strides.insert(0, stride)
    matrix = zip(result.sizes[-2:], strides[-2:], strict=True)
    return View(result.sizes, tuple(strides)) if any(1 in pair for pair in matrix) else None


def _taken(size: int, axes: list[tuple[int, int]]) -> int | None:
    """The stride of one axis that is made of the first of `axes`, inner ones first, which are taken away.

    None if it has no single stride.
    """
    first, reach = 0, 0
    while size != 1:
        axis, stride = axes.pop(0)
        piece = math.gcd(axis, size)
        if piece not in (axis, size) or reach not in (0, stride):
            return None
        if piece != axis:
            axes.insert(0, (axis // piece, stride * piece))
        first, reach, size = first or stride, stride * piece, size // piece
    return first or 1
