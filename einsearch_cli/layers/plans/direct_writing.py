"""Operands of a whole plan, and products that write where the next one reads.

A batched product of cuBLAS writes its blocks anywhere in memory, as long as one axis of each block lies
without gaps. So on a GPU most copies that rearrange an intermediate, the output or the input's gradient fall
away: the product before writes the rearranged memory itself. MKL would leave its batched path for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from einsearch_cli.layers.plans.operands import Count, StepOperands, View, contiguous, step_operands, writing
from einsearch_cli.layers.plans.plan import Plan

_ONE = Count(1, per_token=False)


@dataclass(frozen=True, slots=True, eq=False)
class PlanOperands:
    """Those of all steps, and what is copied at the end of each pass."""

    steps: tuple[StepOperands, ...]
    write: tuple[View, View] | None
    """The last result with the axes of the output, in the result's memory and in the output's."""
    write_grad: tuple[View, View] | None
    """The same of the input's gradient."""


@lru_cache(maxsize=1024)
def plan_operands(plan: Plan, is_cpu: bool) -> PlanOperands:
    """
    >>> from einsearch_cli.layers import EinsumLinear
    >>> plan = EinsumLinear(64, 64, "monarch", device="meta").plan
    >>> result, wanted = plan_operands(plan, is_cpu=True).write
    >>> str(result)  # copied from blocks of all tokens
    '(tokens, 8, 8), (8, 8 * tokens, 1)'
    >>> direct = plan_operands(plan, is_cpu=False)
    >>> direct.write, str(direct.steps[-1].result)  # blocks written into the output
    (None, '(8, tokens, 8), (8, 64, 1)')
    """
    steps = [step_operands(step) for step in plan.steps]
    write, write_grad = (None if reading is None else writing(reading) for reading in (plan.write, plan.write_grad))
    if is_cpu:
        return PlanOperands(tuple(steps), write, write_grad)
    for number, later in enumerate(steps[1:]):
        before = steps[number]
        into = None if later.rows.copy is None else _carried(before.result, later.rows.copy)
        if into is not None:
            steps[number] = before = replace(before, result=into)
            steps[number + 1] = later = replace(later, rows=replace(later.rows, copy=None))
        into = None if before.grad.copy is None else _carried(later.rows_grad, before.grad.copy)
        if into is not None:
            steps[number] = replace(before, grad=replace(before.grad, copy=None))
            steps[number + 1] = replace(later, rows_grad=into)
    into = None if write is None else _carried(steps[-1].result, write[0])
    if into is not None:
        steps[-1], write = replace(steps[-1], result=into), None
    into = None if write_grad is None else _carried(steps[0].rows_grad, write_grad[0])
    if into is not None:
        steps[0], write_grad = replace(steps[0], rows_grad=into), None
    return PlanOperands(tuple(steps), write, write_grad)


def _carried(result: View, copied: View) -> View | None:
    """The blocks of a contiguous result as they lie in a contiguous copy of it; None if no product can write them so.

    `copied` has the axes of the copy in their order, in the memory of the result.

    >>> blocks = contiguous((Count(8, False), Count(1, True), Count(4, False)))
    >>> str(_carried(blocks, View((blocks.sizes[1], blocks.sizes[0], blocks.sizes[2]), blocks.strides[1:2]
    ...     + blocks.strides[0:1] + blocks.strides[2:3])))
    '(8, tokens, 4), (4, 32, 1)'
    """
    moved = zip(copied.strides, copied.sizes, contiguous(copied.sizes).strides, strict=True)
    inner_first = sorted(
        (item for item in moved if item[1] != _ONE), key=lambda item: (item[0].per_token, item[0].times)
    )
    axes = [(size, stride) for _, size, stride in inner_first]
    strides: list[Count] = []
    for size in reversed(result.sizes):
        stride = _taken(size, axes)
        if stride is None:
            return None
        strides.insert(0, stride)
    matrix = zip(result.sizes[-2:], strides[-2:], strict=True)
    return View(result.sizes, tuple(strides)) if any(_ONE in pair for pair in matrix) else None


def _taken(size: Count, axes: list[tuple[Count, Count]]) -> Count | None:
    """The stride of one axis that is made of the first of `axes`, inner ones first, which are taken away.

    None if it has no single stride.
    """
    first: Count | None = None
    reach: Count | None = None
    while size != _ONE:
        axis, stride = axes.pop(0)
        piece = axis if _divides(axis, size) else size
        if not _divides(piece, axis) or reach not in (None, stride):
            return None
        if piece != axis:
            axes.insert(0, (_quotient(axis, piece), _times(stride, piece)))
        first, reach, size = first or stride, _times(stride, piece), _quotient(size, piece)
    return first or _ONE


def _divides(divisor: Count, count: Count) -> bool:
    return count.times % divisor.times == 0 and count.per_token >= divisor.per_token


def _quotient(count: Count, divisor: Count) -> Count:
    return Count(count.times // divisor.times, count.per_token and not divisor.per_token)


def _times(a: Count, b: Count) -> Count:
    return Count(a.times * b.times, a.per_token or b.per_token)
