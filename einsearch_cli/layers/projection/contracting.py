"""Products of several tensors with named axes, two at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from einsearch_cli.sizing import SizedStructure

Axes = tuple[str, ...]
Factors = dict[str, Tensor]
"""Every factor with its axes in the order of `sized.carriers_of(factor)`."""
Labelled = tuple[Axes, Tensor]


def product_of(sized: SizedStructure, factors: Mapping[str, Tensor], axes: Axes) -> Tensor:
    """The product of all factors, with these axes; bonds are summed over."""
    return contracted([(sized.carriers_of(factor), value) for factor, value in factors.items()], axes)


def contracted(operands: Sequence[Labelled], wanted: Axes) -> Tensor:
    """The product of operands, summed over all axes but the wanted ones.

    Multiplied first is always the pair whose product adds least to the memory. The
    order of the operands, which plain einsum follows, would form the outer product of the two ends of a
    chain: 32 GiB instead of 0.1 for two bonds of 64 at 1024 × 1024.
    """
    left = list(operands)
    while len(left) > 2:
        first, second = _cheapest_pair(left, wanted)
        rest = [one for number, one in enumerate(left) if number not in (first, second)]
        axes = _joint_axes(left[first], left[second], rest, wanted)
        left = [*rest, (axes, _einsum([left[first], left[second]], axes))]
    return _einsum(left, wanted)


def _cheapest_pair(operands: Sequence[Labelled], wanted: Axes) -> tuple[int, int]:
    sizes = {axis: size for axes, tensor in operands for axis, size in zip(axes, tensor.shape, strict=True)}

    def growth(pair: tuple[int, int]) -> int:
        first, second = (operands[number] for number in pair)
        rest = [one for number, one in enumerate(operands) if number not in pair]
        joint = _joint_axes(first, second, rest, wanted)
        return math.prod(sizes[axis] for axis in joint) - first[1].numel() - second[1].numel()

    return min(combinations(range(len(operands)), 2), key=growth)


def _joint_axes(first: Labelled, second: Labelled, rest: Sequence[Labelled], wanted: Axes) -> Axes:
    needed = set(wanted).union(*(axes for axes, _ in rest))
    return tuple(axis for axis in dict.fromkeys((*first[0], *second[0])) if axis in needed)


def _einsum(operands: Sequence[Labelled], wanted: Axes) -> Tensor:
    letters: dict[str, str] = {}
    for axes, _ in operands:
        for axis in axes:
            letters.setdefault(axis, chr(ord("a") + len(letters)))
    texts = ["".join(letters[axis] for axis in axes) for axes in (*(axes for axes, _ in operands), wanted)]
    return torch.einsum(f"{','.join(texts[:-1])}->{texts[-1]}", *(tensor for _, tensor in operands))
