"""Tensors with named axes: a dense matrix as a tensor, and products of several tensors, two at a time."""

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

_NOISE = 1e-13
"""Part of the squared norm below which a difference of squares counts as zero."""


def product_of(sized: SizedStructure, factors: Mapping[str, Tensor], axes: Axes) -> Tensor:
    """The product of all factors with these axes; bonds are summed over."""
    return contracted([(sized.carriers_of(factor), value) for factor, value in factors.items()], axes)


def contracted(operands: Sequence[Labelled], wanted: Axes) -> Tensor:
    """The product of operands, summed over all axes except the wanted ones.

    The pair whose product adds least to the memory is always multiplied first. The order of the operands, which plain
    einsum follows, would form the outer product of the two ends of a chain: 32 GiB instead of 0.1 for two bonds of 64
    at 1024 × 1024.
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


class Target:
    """The tensor to which the product of a structure's factors should be near.

    Entries that exist only because of padding are free: a layer never uses them, so `filled` takes the factors' values
    there.

    Args:
        sized: the sized structure, with the order of the matrix's features.
        weight: the dense matrix, (d_out, d_in).
    """

    def __init__(self, sized: SizedStructure, weight: Tensor) -> None:
        self.sized = sized
        self.axes = tuple(c for c, _ in sized.sizes if set(c) & set("XY") and set(c) - set("XY"))
        self.copies = sized.size("XY")
        """Means of the matrix along indices that no factor carries, along which it would be constant."""
        rows, columns = sized.padded_out - sized.d_out, sized.padded_in - sized.d_in
        counts = self.by_index(torch.nn.functional.pad(torch.ones_like(weight), (0, columns, 0, rows)))
        self.values = self.by_index(torch.nn.functional.pad(weight, (0, columns, 0, rows))) / counts.clamp_min(1)
        self._known = counts > 0 if rows or columns else None
        outside = weight.square().sum().item() - (counts * self.values.square()).sum().item()
        self._outside = outside if outside > _NOISE * weight.square().sum().item() else 0.0

    @property
    def has_free_entries(self) -> bool:
        return self._known is not None

    def filled(self, product: Tensor) -> Tensor:
        """The target, with the entries of a product where it is free."""
        return self.values if self._known is None else torch.where(self._known, self.values, product)

    def distance(self, product: Tensor) -> float:
        """The distance from the dense matrix to that of a product, including entries outside of all blocks."""
        inside = (self.filled(product) - product).square().sum().item()
        return math.sqrt(self._outside + self.copies * inside)

    def dense(self, product: Tensor) -> Tensor:
        """The matrix (d_out, d_in) of a product of factors with the target's axes."""
        inputs, outputs = self.sized.features("X"), self.sized.features("Y")
        # Along an index that X and Y share, the matrix is diagonal.
        diagonals = [((c, c + "'"), torch.eye(self.sized.size(c), dtype=product.dtype)) for c in outputs if c in inputs]
        wanted = (*(c + "'" if c in inputs else c for c in outputs), *inputs)
        matrix = contracted([(self.axes, product), *diagonals], wanted)
        return matrix.reshape(self.sized.padded_out, self.sized.padded_in)[: self.sized.d_out, : self.sized.d_in]

    def by_index(self, weight: Tensor) -> Tensor:
        """Map (padded_out, padded_in) to the axes; shared ones of X and Y take the diagonal, or a sum without factors."""
        letters, both = self.sized.letters, (*self.sized.features("Y"), *self.sized.features("X"))
        shape = [self.sized.size(c) for c in both]
        separate = "".join(letters[c] for c in both)
        return torch.einsum(f"{separate}->{''.join(letters[c] for c in self.axes)}", weight.reshape(shape))
