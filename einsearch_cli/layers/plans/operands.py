"""Sizes and strides of every operand of a plan, and products that write directly where the next one reads.

Each operand of a product is one strided view of contiguous memory. Views are prepared per number of tokens, as a small
layer spends most of its time between its products.

A batched product of cuBLAS writes its blocks anywhere in memory, as long as one axis of each block is contiguous. So on
a GPU most copies that rearrange an intermediate, the output or the input's gradient are unnecessary: the product before
writes the rearranged memory itself. MKL would leave its batched path for this.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plans.plan import TOKENS, Axes, Groups, Plan, Step, is_view, product_of

ANY_TOKENS = 1009
"""A number of tokens for questions whose answer does not depend on it."""


class View(NamedTuple):
    """Sizes and strides of axes in contiguous memory, in elements: arguments of `as_strided`."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def swapped(self) -> View:
        """The view with its last two axes exchanged."""
        *sizes, i, j = self.sizes
        *strides, p, q = self.strides
        return View((*sizes, j, i), (*strides, q, p))

    @property
    def is_contiguous(self) -> bool:
        return self == contiguous(self.sizes)


class Copy(NamedTuple):
    """A copy from its source to its target layout, with axes in the order of the target."""

    source: View
    target: View
    run: int
    """Elements that are moved as one run, within the innermost block; 1 if the tokens are among their axes."""


class Operand(NamedTuple):
    """Blocks of an activation or gradient, for a product with a factor and for the gradient of the factor."""

    copy: Copy | None
    """The copy to make before, if no view of the memory serves a product."""
    by_factor: View
    """The operand for the product with the factor, in the memory or in the copy."""
    by_rows: View
    """The operand for the gradient of the factor."""


class StepOperands(NamedTuple):
    """The operands of the three products of one step."""

    rows: Operand
    """`by_factor` is (B, R, K), or (B, K, R) if the result is feature-major; `by_rows` is (B, K, R) or swapped."""
    result: View
    grad: Operand
    """`by_factor` is (B, R, N), or (B, N, R) if the rows' gradient is feature-major; `by_rows` is (B, R, N) or swapped.
    """
    rows_grad: View


class PlanOperands(NamedTuple):
    """The operands of all steps, and the copies at the end of each pass."""

    steps: tuple[StepOperands, ...]
    write: Copy | None
    """The copy from the last result to the output; None if it is not needed."""
    write_grad: Copy | None
    """The copy from the gradient of the first rows to that of the input; None if it is not needed."""


@lru_cache(maxsize=4096)
def plan_operands(plan: Plan, is_cpu: bool, tokens: int = ANY_TOKENS) -> PlanOperands:
    """All operands for this many tokens.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> plan = EinsumLinear(64, 64, "monarch", device="meta").plan
    >>> on_cpu = plan_operands(plan, is_cpu=True, tokens=10)
    >>> tuple(on_cpu.steps[0].rows.by_factor)  # blocks of 8 features
    ((8, 8, 10), (8, 1, 64))
    >>> tuple(on_cpu.write.source)  # copied from blocks of all tokens
    ((10, 8, 8), (8, 80, 1))
    >>> on_gpu = plan_operands(plan, is_cpu=False, tokens=10)
    >>> on_gpu.write, tuple(on_gpu.steps[-1].result)  # blocks written into the output
    (None, ((8, 10, 8), (8, 64, 1)))
    """
    steps = [_step_operands(step, tokens) for step in plan.steps]
    sizes = plan.steps[0].sizes(tokens)
    write, write_grad = (
        None if memory == target else _copy(memory, (target[:1], target[1:]), sizes)
        for memory, target in ((plan.drafts[-1].after, plan.end), (plan.drafts[0].grad_before, plan.start))
    )
    if is_cpu or not tokens:
        return PlanOperands(tuple(steps), write, write_grad)
    # On a GPU, a product can write its blocks where a copy would move them (`_carried`), so the copy is dropped. Forward,
    # this is the copy of the next step's rows; backward, that of the earlier step's gradient; at the ends, those of the
    # output and of the input's gradient, which is how Monarch gets rid of both its copies.
    for number, later in enumerate(steps[1:]):
        before = steps[number]
        if into := _carried(before.result, later.rows.copy):
            steps[number] = before = before._replace(result=into)
            steps[number + 1] = later = later._replace(rows=later.rows._replace(copy=None))
        if into := _carried(later.rows_grad, before.grad.copy):
            steps[number] = before._replace(grad=before.grad._replace(copy=None))
            steps[number + 1] = later._replace(rows_grad=into)
    if into := _carried(steps[-1].result, write):
        steps[-1], write = steps[-1]._replace(result=into), None
    if into := _carried(steps[0].rows_grad, write_grad):
        steps[0], write_grad = steps[0]._replace(rows_grad=into), None
    return PlanOperands(tuple(steps), write, write_grad)


def contiguous(sizes: Sequence[int]) -> View:
    """Sizes with the strides of contiguous memory."""
    return View(tuple(sizes), tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))))


def _step_operands(step: Step, tokens: int) -> StepOperands:
    """The operands of a step when every result is contiguous."""
    draft, sizes = step.draft, step.sizes(tokens)
    rows_copy, rows = _blocks(draft.before, (draft.batch, draft.rows, draft.contracted), sizes)
    grad_copy, grad = _blocks(step.grad_after, (draft.batch, draft.rows, draft.new), sizes)
    is_swapped = step.weight_grad_is_swapped  # (B, N, R) times (B, R, K) instead of (B, K, R) times (B, R, N)
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


def _blocks(memory: Axes, groups: Groups, sizes: Mapping[str, int]) -> tuple[Copy | None, View]:
    """The copy to make, if any, and the view of batch (if any), rows and last group in the memory or copy."""
    batch, rows, last = groups
    copy, at = None, dict(zip(memory, _lying(memory, sizes).strides, strict=True))
    if not is_view(memory, groups):
        # Rows that are innermost stay so, which moves longer runs.
        blocks = (batch, last, rows) if memory[-1] in rows else groups
        copy = _copy(memory, blocks, sizes)
        at = dict(zip((axis for block in blocks for axis in block), copy.target.strides, strict=True))
    groups = groups if batch else (rows, last)
    # Each block is one run of the memory or copy, so its innermost stride is that of the block.
    strides = tuple(at[group[-1]] if group else 1 for group in groups)
    return copy, View(tuple(product_of(group, sizes) for group in groups), strides)


def _copy(memory: Axes, blocks: Groups, sizes: Mapping[str, int]) -> Copy:
    order, last = tuple(axis for block in blocks for axis in block), blocks[-1]
    strides = dict(zip(memory, _lying(memory, sizes).strides, strict=True))
    target = _lying(order, sizes)
    run: Axes = ()
    while len(run) < len(last) and last[-len(run) - 1] == memory[-len(run) - 1]:
        run = last[-len(run) - 1 :]
    moved = 1 if TOKENS in run else product_of(run, sizes)
    return Copy(View(target.sizes, tuple(strides[axis] for axis in order)), target, moved)


def _lying(axes: Axes, sizes: Mapping[str, int]) -> View:
    return contiguous([sizes[axis] for axis in axes])


def _carried(result: View, copy: Copy | None) -> View | None:
    """The blocks of a result in the layout of a copy of it; None if no product can write them there.

    >>> blocks = contiguous((8, 10, 4))
    >>> tuple(_carried(blocks, Copy(View((10, 8, 4), (4, 40, 1)), contiguous((10, 8, 4)), 4)))
    ((8, 10, 4), (4, 32, 1))
    """
    if copy is None:
        return None
    # List the axes of the copy from the inside of the result outwards, as (size, stride in the copy). A product can
    # write the copy itself if each axis of its result consists of the next of these, and they also follow each other in
    # the copy: then the axis has a single stride there. One of the last two axes must have stride 1.
    moved = zip(copy.source.strides, copy.source.sizes, copy.target.strides, strict=True)
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
    """Remove the axes that make up one of this size, inner ones first; returns its single stride, or None."""
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
