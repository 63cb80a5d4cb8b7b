"""Factors multiplied with each other, as a route of fewer steps wants them (`plans.merging`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from einsearch_cli.layers.plans.merge_steps import Axes, joint_axes, merging_pairs, without
from einsearch_cli.layers.plans.plan import Plan, Step
from einsearch_cli.layers.torch_private import constant_when_compiled
from einsearch_cli.sizing import SizedStructure

Labelled = tuple[Axes, Tensor]
"""A tensor and the carrier sets of its axes."""


def merged_weights(sized: SizedStructure, stored: Plan, wanted: Plan, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The weights of a plan of groups from those of the layer's own plan; differentiable.

    `weights` are the factors by name, each as its step of `stored` holds it; the
    result is in the order of `wanted.steps`, each of its `weight_shape`.
    """
    labelled = {step.factor: _labelled_axes(sized, step, weights[step.factor]) for step in stored.steps}
    return [_merged_step(sized, step, [labelled[factor] for factor in step.factor]) for step in wanted.steps]


def _labelled_axes(sized: SizedStructure, step: Step, weight: Tensor) -> Labelled:
    """A stored factor with one axis for every index."""
    return step.axes, weight.reshape([sized.size(axis) for axis in step.axes])


def _merged_step(sized: SizedStructure, step: Step, tensors: list[Labelled]) -> Tensor:
    target = step.axes
    for first, second, axes in _pairs(sized, tuple(axes for axes, _ in tensors), target):
        product = _pair_product(sized, tensors[first], tensors[second], axes)
        tensors = [*without(tensors, first, second), (axes, product)]
    return _aligned(sized, tensors[0], target).reshape(step.weight_shape)


@constant_when_compiled
def _pairs(sized: SizedStructure, tensors: tuple[Axes, ...], target: Axes) -> tuple[tuple[int, int, Axes], ...]:
    """For compilers, which cannot follow the search."""
    return tuple(merging_pairs(sized, tensors, target))


def _pair_product(sized: SizedStructure, first: Labelled, second: Labelled, target: Axes) -> Tensor:
    """The product of two tensors with the axes `target`, contiguous; other axes are summed over."""
    if set(joint_axes(first[0], second[0])) <= set(target):
        # Small operands brought into the order of the large result first: 3 to 9 times faster than einsum.
        return _aligned(sized, first, target) * _aligned(sized, second, target)
    letter = {axis: chr(ord("a") + number) for number, axis in enumerate(joint_axes(first[0], second[0]))}
    operands = ("".join(letter[axis] for axis in axes) for axes in (first[0], second[0], target))
    left, right, result = operands
    return torch.einsum(f"{left},{right}->{result}", first[1], second[1]).contiguous()


def _aligned(sized: SizedStructure, tensor: Labelled, target: Axes) -> Tensor:
    """The tensor with its axes in the order of `target`, of length 1 where it has none."""
    axes, values = tensor
    order = [axes.index(axis) for axis in target if axis in axes]
    shape = [sized.size(axis) if axis in axes else 1 for axis in target]
    return values.permute(order).contiguous().reshape(shape)
