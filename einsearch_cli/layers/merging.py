"""Multiplying factors with each other, before they meet any activation.

Merging all factors of a layer gives its dense matrix (pre-merge, Wei et al. 2024,
arXiv 2406.16450); merging some gives a plan of fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from einsearch_cli.layers.plan import Plan, Step
from einsearch_cli.structures import SizedStructure

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
    axes = tuple(axis for group in step.weight_axes for axis in group)
    return axes, weight.reshape([sized.size(axis) for axis in axes])


def _merged_step(sized: SizedStructure, step: Step, tensors: list[Labelled]) -> Tensor:
    target = tuple(axis for group in step.weight_axes for axis in group)
    while len(tensors) > 2:
        first, second = _cheapest_pair(sized, tensors, target)
        rest = [tensor for number, tensor in enumerate(tensors) if number not in (first, second)]
        needed = {axis for axes, _ in rest for axis in axes} | set(target)
        axes = tuple(axis for axis in _joint(tensors[first][0], tensors[second][0]) if axis in needed)
        tensors = [*rest, (axes, _pair_product(sized, tensors[first], tensors[second], axes))]
    result = (
        _pair_product(sized, tensors[0], tensors[1], target)
        if len(tensors) == 2
        else _aligned(sized, tensors[0], target)
    )
    return result.reshape(step.weight_shape)


def _cheapest_pair(sized: SizedStructure, tensors: Sequence[Labelled], target: Axes) -> tuple[int, int]:
    """The pair whose product is smallest; the largest one is left to the last step."""

    def size(pair: tuple[int, int]) -> int:
        rest = [axes for number, (axes, _) in enumerate(tensors) if number not in pair]
        needed = {axis for axes in rest for axis in axes} | set(target)
        joint = _joint(tensors[pair[0]][0], tensors[pair[1]][0])
        return math.prod(sized.size(axis) for axis in joint if axis in needed)

    return min(combinations(range(len(tensors)), 2), key=size)


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
