"""A plan at one number of tokens: the sizes and strides of every operand, worked out once.

A small layer spends most of its time between its products. With sizes and strides at
hand an operand is one `as_strided`, where reading it by the plan takes up to four views.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plan import Plan, Reading, Step


class View(NamedTuple):
    """Sizes and strides in contiguous memory."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def swapped(self) -> View:
        """The last two axes exchanged."""
        *sizes, i, j = self.sizes
        *strides, p, q = self.strides
        return View((*sizes, j, i), (*strides, q, p))


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
class StepProgram:
    """The three products of one meeting, with every result contiguous."""

    step: Step
    is_feature_major: bool
    is_along_tokens: bool
    """Whether the factor is repeated along the tokens."""
    rows: Operand
    """`by_factor` is (B, R, K), or (B, K, R) where the result is feature-major; `by_rows` (B, K, R) or swapped."""
    result: View
    grad: Operand
    """`by_factor` is (B, R, N), or (B, N, R) where the rows' gradient is feature-major; `by_rows` (B, R, N) or swapped."""
    rows_grad: View


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """All meetings, and the passes from the last result to the output and back to the input's gradient."""

    tokens: int
    steps: tuple[StepProgram, ...]
    is_along_tokens: bool
    """Whether a factor is repeated along the tokens."""
    write: tuple[View, View] | None
    """The last result with the axes of the output, and the output; None if it lies so already."""
    write_grad: tuple[View, View] | None
    """The same for the gradient of the input."""


@lru_cache(maxsize=4096)
def program_for(plan: Plan, tokens: int) -> Program:
    """
    >>> from einsearch_cli.layers import EinsumLinear
    >>> plan = EinsumLinear(64, 64, "monarch", device="meta").plan
    >>> program_for(plan, 10).steps[0].rows.by_factor  # blocks of 8 features of 10 tokens
    View(sizes=(8, 8, 10), strides=(8, 1, 64))
    """
    steps = tuple(_step_program(step, tokens) for step in plan.steps)
    return Program(
        tokens=tokens,
        steps=steps,
        is_along_tokens=any(step.is_along_tokens for step in steps),
        write=_write(plan.write, tokens),
        write_grad=_write(plan.write_grad, tokens),
    )


def _step_program(step: Step, tokens: int) -> StepProgram:
    rows_copy, rows = _blocks(step.rows, tokens)
    grad_copy, grad = _blocks(step.grad, tokens)
    is_swapped = step.weight_grad_is_swapped  # (B, N, R) times (B, R, K) in place of (B, K, R) times (B, R, N)
    result, rows_grad = _contiguous(step.result.at(tokens)), _contiguous(rows.sizes)
    return StepProgram(
        step=step,
        is_feature_major=step.is_feature_major,
        is_along_tokens=step.repeat_to.token_axis is not None,
        rows=Operand(rows_copy, rows.swapped if step.is_feature_major else rows, rows if is_swapped else rows.swapped),
        result=_contiguous(result.swapped.sizes) if step.is_feature_major else result,
        grad=Operand(
            grad_copy, grad.swapped if step.grad_is_feature_major else grad, grad.swapped if is_swapped else grad
        ),
        rows_grad=_contiguous(rows.swapped.sizes) if step.grad_is_feature_major else rows_grad,
    )


def _blocks(reading: Reading, tokens: int) -> tuple[View | None, View]:
    """What is copied, if anything, and the blocks in memory or copy."""
    axes = _axes(reading, tokens)
    blocks = axes if reading.blocks is None else _contiguous(reading.blocks.at(tokens))
    if reading.is_copy:
        blocks = _contiguous(blocks.sizes)
    return (axes if reading.is_copy else None), (blocks.swapped if reading.is_swapped else blocks)


def _write(reading: Reading | None, tokens: int) -> tuple[View, View] | None:
    if reading is None:
        return None
    source = _axes(reading, tokens)
    return source, _contiguous(source.sizes)


def _axes(reading: Reading, tokens: int) -> View:
    """The axes of a reading in their order."""
    memory = _contiguous(reading.shape.at(tokens))
    if reading.order is None:
        return memory
    return View(
        tuple(memory.sizes[axis] for axis in reading.order), tuple(memory.strides[axis] for axis in reading.order)
    )


def _contiguous(sizes: Sequence[int]) -> View:
    strides = tuple(math.prod(max(1, size) for size in sizes[axis + 1 :]) for axis in range(len(sizes)))
    return View(tuple(sizes), strides)
