"""Sizes and strides of every operand of a plan, for any number of tokens.

Each operand of a product is one strided view of contiguous memory, where reading it by
the plan takes up to four views; a small layer spends most of its time between its products.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from einsearch_cli.layers.plans.plan import Reading, Shape, Step

TOKENS_NAME = "tokens"
"""The number of tokens in the text of a count."""


class Count(NamedTuple):
    """A number of elements, which may be a multiple of the number of tokens; as text it is Python.

    >>> [str(Count(16, False)), str(Count(16, True)), str(Count(1, True))]
    ['16', '16 * tokens', 'tokens']
    """

    times: int
    per_token: bool

    def __str__(self) -> str:
        if not self.per_token:
            return str(self.times)
        return TOKENS_NAME if self.times == 1 else f"{self.times} * {TOKENS_NAME}"


class View(NamedTuple):
    """Sizes and strides in contiguous memory; as text they are arguments of `as_strided`.

    >>> str(contiguous(counts(Shape((4, 1, 8), token_axis=1))))
    '(4, tokens, 8), (8 * tokens, 8, 1)'
    """

    sizes: tuple[Count, ...]
    strides: tuple[Count, ...]

    @property
    def elements(self) -> Count:
        return _product(self.sizes)

    @property
    def swapped(self) -> View:
        """The last two axes exchanged."""
        *sizes, i, j = self.sizes
        *strides, p, q = self.strides
        return View((*sizes, j, i), (*strides, q, p))

    def __str__(self) -> str:
        return f"{_tuple_text(self.sizes)}, {_tuple_text(self.strides)}"


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """Blocks of an activation or gradient, for a product with a factor and for the gradient of the factor."""

    copy: View | None
    """What is copied before, as no view of the memory serves a product."""
    by_factor: View
    """For the product with the factor, in the memory or in the copy."""
    by_rows: View
    """For the gradient of the factor."""


@dataclass(frozen=True, slots=True, eq=False)
class StepOperands:
    """Those of the three products of one meeting, with every result contiguous."""

    rows: Operand
    """`by_factor` is (B, R, K), or (B, K, R) where the result is feature-major; `by_rows` (B, K, R) or swapped."""
    result: View
    grad: Operand
    """`by_factor` is (B, R, N), or (B, N, R) where the rows' gradient is feature-major; `by_rows` (B, R, N) or swapped."""
    rows_grad: View


def step_operands(step: Step) -> StepOperands:
    """
    >>> from einsearch_cli.layers import EinsumLinear
    >>> first, second = EinsumLinear(64, 64, "monarch", device="meta").plan.steps
    >>> str(step_operands(first).rows.by_factor)  # blocks of 8 features
    '(8, 8, tokens), (8, 1, 64)'
    """
    rows_copy, rows = _blocks(step.rows)
    grad_copy, grad = _blocks(step.grad)
    is_swapped = step.weight_grad_is_swapped  # (B, N, R) times (B, R, K) in place of (B, K, R) times (B, R, N)
    result, rows_grad = contiguous(counts(step.result)), contiguous(rows.sizes)
    return StepOperands(
        rows=Operand(rows_copy, rows.swapped if step.is_feature_major else rows, rows if is_swapped else rows.swapped),
        result=contiguous(result.swapped.sizes) if step.is_feature_major else result,
        grad=Operand(
            grad_copy, grad.swapped if step.grad_is_feature_major else grad, grad.swapped if is_swapped else grad
        ),
        rows_grad=contiguous(rows.swapped.sizes) if step.grad_is_feature_major else rows_grad,
    )


def writing(reading: Reading) -> tuple[View, View]:
    """A last result with the axes of what is to be written, and that in its own memory."""
    source = _axes(reading)
    return source, contiguous(source.sizes)


def counts(shape: Shape) -> tuple[Count, ...]:
    """The sizes of a shape."""
    return tuple(Count(size, axis == shape.token_axis) for axis, size in enumerate(shape.sizes))


def contiguous(sizes: Sequence[Count]) -> View:
    """Sizes with the strides of contiguous memory."""
    return View(tuple(sizes), tuple(_product(sizes[axis + 1 :]) for axis in range(len(sizes))))


def _blocks(reading: Reading) -> tuple[View | None, View]:
    """What is copied, if anything, and the blocks in memory or copy."""
    axes = _axes(reading)
    blocks = axes if reading.blocks is None else contiguous(counts(reading.blocks))
    if reading.is_copy:
        blocks = contiguous(blocks.sizes)
    return (axes if reading.is_copy else None), (blocks.swapped if reading.is_swapped else blocks)


def _axes(reading: Reading) -> View:
    """The axes of a reading in their order."""
    memory = contiguous(counts(reading.shape))
    if reading.order is None:
        return memory
    return View(
        tuple(memory.sizes[axis] for axis in reading.order), tuple(memory.strides[axis] for axis in reading.order)
    )


def _product(sizes: Sequence[Count]) -> Count:
    return Count(math.prod(size.times for size in sizes), any(size.per_token for size in sizes))


def _tuple_text(counts: Sequence[Count]) -> str:
    return f"({', '.join(map(str, counts))}{',' if len(counts) == 1 else ''})"
