"""W for random factors, multiplied pair by pair: modulo a prime, or in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.sizing.cut_bounds import Sizes
from einsearch_cli.sizing.modular import product_mod

Matrix = NDArray[Any]

# Tensors below are pairs of axes, named by their carrier sets, and an array: of residues mod p, or of float64.
_Axes = tuple[str, ...]


def random_factors(sizes: Sizes, prime: int | None, seed: int) -> dict[str, tuple[_Axes, Matrix]]:
    """Every factor with its axes and uniform random residues, or standard normal numbers without a prime."""
    generator = np.random.default_rng(seed)
    factors: dict[str, tuple[_Axes, Matrix]] = {}
    for factor in _factors(sizes):
        axes = tuple(c for c in sizes if factor in c)
        shape = [sizes[c] for c in axes]
        factors[factor] = (
            axes,
            generator.standard_normal(shape) if prime is None else generator.integers(0, prime, shape),
        )
    return factors


def random_matrix(sizes: Sizes, prime: int | None, seed: int) -> Matrix:
    """W for random factors, modulo p if there is one; rows are the output indices, columns the input indices, in order.

    >>> random_matrix({"XA": 6, "YB": 4, "AB": 2}, prime=2147483647, seed=0).shape
    (4, 6)
    """
    tensors = random_factors(sizes, prime, seed)
    held: dict[str, tuple[_Axes, Matrix]] = dict(tensors)
    for left, right in _order(sizes):
        axes = _axes_of(left + right, sizes)
        held[left + right] = axes, _contract(held.pop(left), held.pop(right), axes, sizes, prime)
    ((axes, product),) = held.values()
    row_axes, column_axes = [c for c in sizes if "Y" in c], [c for c in sizes if "X" in c]
    wanted = row_axes + [c for c in column_axes if "Y" not in c]
    product = product.transpose([axes.index(c) for c in wanted if c in axes])
    # An index of X and Y that no factor carries repeats the block.
    product = np.broadcast_to(
        np.expand_dims(product, [k for k, c in enumerate(wanted) if c not in axes]), [sizes[c] for c in wanted]
    )
    if set(row_axes) & set(column_axes):
        product = _block_diagonal(product, wanted, row_axes + column_axes)
    return product.reshape(math.prod(sizes[c] for c in row_axes), -1)


def _block_diagonal(product: Matrix, axes: list[str], wanted: list[str]) -> Matrix:
    """Write the blocks of indices that X and Y share on the diagonal."""
    number = {c: i for i, c in enumerate(axes)}
    size = dict(zip(axes, product.shape, strict=True))
    whole = np.zeros([size[c] for c in wanted], dtype=product.dtype)
    diagonal = np.einsum(whole, [number[c] for c in wanted], [number[c] for c in axes])
    diagonal[...] = product
    return whole


def _contract(
    left: tuple[_Axes, Matrix], right: tuple[_Axes, Matrix], wanted: _Axes, sizes: Sizes, prime: int | None
) -> Matrix:
    """Multiply two tensors and sum over the axes that no other tensor has."""
    (left_axes, left_array), (right_axes, right_array) = left, right
    both = [c for c in left_axes if c in right_axes]
    batch, summed = [c for c in both if c in wanted], [c for c in both if c not in wanted]
    rows = [c for c in left_axes if c not in both]
    columns = [c for c in right_axes if c not in both]
    b, r, k, n = (math.prod(sizes[c] for c in group) for group in (batch, rows, summed, columns))
    left_BRK = left_array.transpose([left_axes.index(c) for c in batch + rows + summed]).reshape(b, r, k)
    right_BKN = right_array.transpose([right_axes.index(c) for c in batch + summed + columns]).reshape(b, k, n)
    found = batch + rows + columns
    product = left_BRK @ right_BKN if prime is None else product_mod(left_BRK, right_BKN, prime)
    return product.reshape([sizes[c] for c in found]).transpose([found.index(c) for c in wanted])


def _order(sizes: Sizes) -> Iterator[tuple[str, str]]:
    """The groups of factors in the order in which they are multiplied: always the pair with the smallest product."""
    groups = _factors(sizes)
    while len(groups) > 1:
        left, right = min(combinations(groups, 2), key=lambda pair: (_entries(pair[0] + pair[1], sizes), pair))
        groups = [group for group in groups if group not in (left, right)] + [left + right]
        yield left, right


def largest_array(sizes: Sizes) -> int:
    """Entries of the largest array on the way to W: a factor, a product of factors, or W."""
    products = [left + right for left, right in _order(sizes)]
    whole = math.prod(math.prod(size for c, size in sizes.items() if tensor in c) for tensor in "XY")
    return max([whole, *(_entries(group, sizes) for group in [*_factors(sizes), *products])])


def _entries(group: str, sizes: Sizes) -> int:
    return math.prod(sizes[c] for c in _axes_of(group, sizes))


def _axes_of(group: str, sizes: Sizes) -> _Axes:
    """The axes that the product of some factors still has, because a tensor outside carries them too."""
    inside = set(group)
    return tuple(c for c in sizes if not inside.isdisjoint(c) and not inside.issuperset(c))


def _factors(sizes: Sizes) -> list[str]:
    return sorted(set("".join(sizes)) - {"X", "Y"})
