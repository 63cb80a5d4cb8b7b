"""In which order factors are multiplied with each other, before they meet any activation.

Merging all factors of a layer gives its dense matrix (pre-merge, Wei et al. 2024,
arXiv 2406.16450); merging some gives a plan of fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from einsearch_cli.layers.plans.plan import Step
from einsearch_cli.sizing import SizedStructure

Item = TypeVar("Item")
Axes = tuple[str, ...]
"""Carrier sets of the axes of a tensor; indices of size 1 are left out."""


def merging_pairs(sized: SizedStructure, tensors: Sequence[Axes], target: Axes) -> Iterator[tuple[int, int, Axes]]:
    """Which two are multiplied next, and the axes of their product, which goes to the end of the others.

    The pair whose product is smallest, so that the largest one is left to the last, which has the axes `target`.
    """
    tensors = list(tensors)
    while len(tensors) > 1:
        first, second = min(
            combinations(range(len(tensors)), 2), key=lambda pair: _size_of(sized, tensors, pair, target)
        )
        rest = without(tensors, first, second)
        axes = _needed(tensors[first], tensors[second], rest, target) if rest else target
        yield first, second, axes
        tensors = [*rest, axes]


def merging_macs(sized: SizedStructure, step: Step) -> int:
    """Multiply-adds of all products of a group."""
    tensors = [tuple(axis for axis in sized.carriers_of(factor) if sized.size(axis) > 1) for factor in step.factor]
    macs = 0
    for first, second, axes in merging_pairs(sized, tensors, step.axes):
        macs += math.prod(sized.size(axis) for axis in joint_axes(tensors[first], tensors[second]))
        tensors = [*without(tensors, first, second), axes]
    return macs


def _size_of(sized: SizedStructure, tensors: Sequence[Axes], pair: tuple[int, int], target: Axes) -> int:
    first, second = pair
    axes = _needed(tensors[first], tensors[second], without(tensors, first, second), target)
    return math.prod(sized.size(axis) for axis in axes)


def _needed(first: Axes, second: Axes, rest: Sequence[Axes], target: Axes) -> Axes:
    """The axes of a product that others or the result have too; the rest are summed over."""
    wanted = {axis for axes in rest for axis in axes} | set(target)
    return tuple(axis for axis in joint_axes(first, second) if axis in wanted)


def without(items: Sequence[Item], first: int, second: int) -> list[Item]:
    return [item for number, item in enumerate(items) if number not in (first, second)]


def joint_axes(first: Axes, second: Axes) -> Axes:
    return (*first, *(axis for axis in second if axis not in first))
