"""The order in which factors are multiplied with each other before they meet an activation.

Merging all factors of a layer gives its dense matrix (pre-merge, Wei et al. 2024, arXiv 2406.16450); merging some of
them gives a plan with fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from einsearch_cli.layers.plans.plan import Axes, Step
from einsearch_cli.sizing import SizedStructure

Item = TypeVar("Item")


def merging_pairs(sized: SizedStructure, tensors: Sequence[Axes], target: Axes) -> Iterator[tuple[int, int, Axes]]:
    """The pair to multiply next, and the axes of the product, which is appended to the other tensors.

    The pair with the smallest product comes first, so the largest product is the last one, with the axes `target`.
    """
    tensors = list(tensors)

    def product_of(first: int, second: int) -> Axes:
        """The axes of a product: axes that no other tensor and the result have are summed over."""
        wanted = {axis for axes in (*without(tensors, first, second), target) for axis in axes}
        return tuple(axis for axis in joint_axes(tensors[first], tensors[second]) if axis in wanted)

    def elements(pair: tuple[int, int]) -> int:
        return math.prod(map(sized.size, product_of(*pair)))

    while len(tensors) > 1:
        first, second = min(combinations(range(len(tensors)), 2), key=elements)
        axes = product_of(first, second) if len(tensors) > 2 else target
        yield first, second, axes
        tensors = [*without(tensors, first, second), axes]


def merging_macs(sized: SizedStructure, step: Step) -> int:
    """Multiply-adds of all products of a group."""
    tensors = [tuple(axis for axis in sized.carriers_of(factor) if sized.size(axis) > 1) for factor in step.factor]
    macs = 0
    for first, second, axes in merging_pairs(sized, tensors, step.axes):
        macs += math.prod(map(sized.size, joint_axes(tensors[first], tensors[second])))
        tensors = [*without(tensors, first, second), axes]
    return macs


def without(items: Sequence[Item], first: int, second: int) -> list[Item]:
    """The items without two of them."""
    return [item for number, item in enumerate(items) if number not in (first, second)]


def joint_axes(first: Axes, second: Axes) -> Axes:
    """The axes of both, the first one's before."""
    return (*first, *(axis for axis in second if axis not in first))
