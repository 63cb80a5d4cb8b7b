"""Multiplying factors with each other, before they meet any activation.

Merging all factors of a layer gives its dense matrix (pre-merge, Wei et al. 2024,
arXiv 2406.16450); merging some gives a plan of fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

from einsearch_cli.layers.plan import Plan, Step
from einsearch_cli.structures import SizedStructure

Item = TypeVar("Item")
Axes = tuple[str, ...]
Labelled = tuple[Axes, Tensor]
"""A tensor and the carrier sets of its axes; indices of size 1 are left out."""


def merged_weights(sized: SizedStructure, stored: Plan, wanted: Plan, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The weights of a plan of groups from those of the layer's own plan; differentiable.

    `weights` are the factors by name, each as its step of `stored` holds it; the
    result is in the order of `wanted.steps`, each of its `weight_shape`.
    """
    labelled = {step.factor: labelled_axes(sized, step, weights[step.factor]) for step in stored.steps}
    return [_merged_step(sized, step, [labelled[factor] for factor in step.factor]) for step in wanted.steps]


def labelled_axes(sized: SizedStructure, step: Step, weight: Tensor) -> Labelled:
    """A stored factor with one axis for every index."""
    return step.axes, weight.reshape([sized.size(axis) for axis in step.axes])


def _merged_step(sized: SizedStructure, step: Step, tensors: list[Labelled]) -> Tensor:
    target = step.axes
    for first, second, axes in merging_pairs(sized, [axes for axes, _ in tensors], target):
        product = _pair_product(sized, tensors[first], tensors[second], axes)
        tensors = [*_without(tensors, first, second), (axes, product)]
    return _aligned(sized, tensors[0], target).reshape(step.weight_shape)


def merging_pairs(sized: SizedStructure, tensors: Sequence[Axes], target: Axes) -> Iterator[tuple[int, int, Axes]]:
    """Which two are multiplied next, and the axes of their product, which goes to the end of the others.

    The pair whose product is smallest, so that the largest one is left to the last, which has the axes `target`.
    """
    tensors = list(tensors)
    while len(tensors) > 1:
        first, second = min(
            combinations(range(len(tensors)), 2), key=lambda pair: _size_of(sized, tensors, pair, target)
        )
        rest = _without(tensors, first, second)
        axes = _needed(tensors[first], tensors[second], rest, target) if rest else target
        yield first, second, axes
        tensors = [*rest, axes]


def merging_macs(sized: SizedStructure, step: Step) -> int:
    """Multiply-adds of all products of a group."""
    tensors = [tuple(axis for axis in sized.carriers_of(factor) if sized.size(axis) > 1) for factor in step.factor]
    macs = 0
    for first, second, axes in merging_pairs(sized, tensors, step.axes):
        macs += math.prod(sized.size(axis) for axis in _joint(tensors[first], tensors[second]))
        tensors = [*_without(tensors, first, second), axes]
    return macs


def _size_of(sized: SizedStructure, tensors: Sequence[Axes], pair: tuple[int, int], target: Axes) -> int:
    first, second = pair
    axes = _needed(tensors[first], tensors[second], _without(tensors, first, second), target)
    return math.prod(sized.size(axis) for axis in axes)


def _needed(first: Axes, second: Axes, rest: Sequence[Axes], target: Axes) -> Axes:
    """The axes of a product that others or the result have too; the rest are summed over."""
    wanted = {axis for axes in rest for axis in axes} | set(target)
    return tuple(axis for axis in _joint(first, second) if axis in wanted)


def _without(items: Sequence[Item], first: int, second: int) -> list[Item]:
    return [item for number, item in enumerate(items) if number not in (first, second)]


def _joint(first: Axes, second: Axes) -> Axes:
    return (*first, *(axis for axis in second if axis not in first))


def _pair_product(sized: SizedStructure, first: Labelled, second: Labelled, target: Axes) -> Tensor:
    """The product of two tensors with the axes `target`, contiguous; other axes are summed over."""
    if set(_joint(first[0], second[0])) <= set(target):
        # Small operands brought into the order of the large result first: 3 to 9 times faster than einsum.
        return _aligned(sized, first, target) * _aligned(sized, second, target)
    letter = {axis: chr(ord("a") + number) for number, axis in enumerate(_joint(first[0], second[0]))}
    operands = ("".join(letter[axis] for axis in axes) for axes in (first[0], second[0], target))
    left, right, result = operands
    return torch.einsum(f"{left},{right}->{result}", first[1], second[1]).contiguous()


def _aligned(sized: SizedStructure, tensor: Labelled, target: Axes) -> Tensor:
    """The tensor with its axes in the order of `target`, of length 1 where it has none."""
    axes, values = tensor
    order = [axes.index(axis) for axis in target if axis in axes]
    shape = [sized.size(axis) if axis in axes else 1 for axis in target]
    return values.permute(order).contiguous().reshape(shape)
