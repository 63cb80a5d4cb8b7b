"""The space of structures on a grid of exponents: how many there are, and all of them.

The exponents of a grid point are multiples of 1/q, kept as whole numbers of
q-ths in one numpy row per point, columns in the order of the θ vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations
from math import comb

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, Carriers, carrier_classes
from einsearch_cli.structures.structure import Structure

Points = NDArray[np.int16]
MAX_POINTS = 20_000_000
"""Rows of a grid that are held in memory at once (two bytes per column)."""


def compositions(total: int, parts: int) -> Points:
    """All ways to write `total` as an ordered sum of `parts` whole numbers, in lexicographic order.

    >>> compositions(2, 2).tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    bars = np.array(list(combinations(range(total + parts - 1), parts - 1)), dtype=np.int16)
    bars = bars.reshape(comb(total + parts - 1, parts - 1), parts - 1)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=-1)
    edges[:, -1] = total + parts - 1
    return np.diff(edges, axis=1).astype(np.int16) - np.int16(1)


def raw_count(factors: int, grid: int) -> int:
    """Grid points: one composition per side, and any value for every bond.

    >>> raw_count(2, 4)
    1125
    """
    sides = 2**factors - 1
    bonds: int = 2**factors - factors - 1
    return comb(grid + sides - 1, sides - 1) ** 2 * int((grid + 1) ** bonds)


def distinct_count(factors: int, grid: int) -> int:
    """Grid points up to renaming of the factors, by Burnside's lemma.

    The mean over all renamings of the number of grid points that the renaming
    leaves as they are: such a point has one value per cycle of index classes.

    >>> [distinct_count(2, q) for q in (2, 3, 4)]
    [60, 208, 585]
    """
    letters = FACTOR_LETTERS[:factors]
    total = 0
    renamings = list(permutations(letters))
    for renaming in renamings:
        names = dict(zip(letters, renaming, strict=True))
        cycles = _cycle_lengths(factors, names)
        total += _weighted_sums(cycles["X"], grid) ** 2 * (grid + 1) ** len(cycles["bond"])
    return total // len(renamings)


def _cycle_lengths(factors: int, names: dict[str, str]) -> dict[str, list[int]]:
    """Lengths of the cycles of index classes under a renaming, for one side and for the bonds."""
    lengths: dict[str, list[int]] = {"X": [], "Y": [], "bond": []}
    seen: set[Carriers] = set()
    for start in carrier_classes(factors):
        length, current = 0, start
        while current not in seen:
            seen.add(current)
            length += 1
            current = frozenset(names.get(tensor, tensor) for tensor in current)
        if length:
            lengths["X" if "X" in start else "Y" if "Y" in start else "bond"].append(length)
    return lengths


def _weighted_sums(weights: list[int], total: int) -> int:
    """Number of ways to write `total` as a sum of whole multiples of the weights."""
    ways = [1] + [0] * total
    for weight in weights:
        for value in range(weight, total + 1):
            ways[value] += ways[value - weight]
    return ways[total]


def grid_points(factors: int, grid: int) -> Points:
    """All raw points of the grid, one per row.

    Raises:
        StructureError: if there are more than `MAX_POINTS`.
    """
    if factors < 1 or grid < 1:
        raise StructureError(
            f"factors = {factors}, grid = {grid}: both must be at least 1", remedy="choose --factors 2 --grid 4"
        )
    size = raw_count(factors, grid)
    if size > MAX_POINTS:
        raise StructureError(
            f"{factors} factors on a grid of 1/{grid} have {size:,} points: at most {MAX_POINTS:,} can be enumerated",
            remedy="choose a coarser --grid",
        )
    side = compositions(grid, 2**factors - 1)
    bonds = np.indices((grid + 1,) * (2**factors - factors - 1), dtype=np.int16)
    bonds = bonds.reshape(len(bonds), -1).T if len(bonds) else np.zeros((1, 0), dtype=np.int16)
    i, j, k = (a.ravel() for a in np.indices((len(side), len(side), len(bonds))))
    return np.concatenate([side[i], side[j], bonds[k]], axis=1)


def irreducible(points: Points, factors: int) -> NDArray[np.bool_]:
    """Which points need all their factors: no factor's indices are all carried by another one.

    Holds for two factors, where taking out a factor always leaves one.
    """
    needed = np.ones(len(points), dtype=bool)
    classes = list(carrier_classes(factors))
    for factor, other in permutations(FACTOR_LETTERS[:factors], 2):
        alone = [i for i, carriers in enumerate(classes) if factor in carriers and other not in carriers]
        needed &= points[:, alone].any(axis=1)
    return needed


def structures_of(points: Points, factors: int, grid: int) -> Iterator[Structure]:
    """The structures of points that are canonical and irreducible."""
    classes = list(carrier_classes(factors))
    powers = [Extent.power(Fraction(n, grid)) for n in range(grid + 1)]
    for row in points.tolist():
        yield Structure.in_normal_form({c: powers[n] for c, n in zip(classes, row, strict=True) if n})


def step_masks(factors: int, order: tuple[str, ...]) -> list[NDArray[np.bool_]]:
    """For every step of an order of meeting the activation, the index classes present in it."""
    classes = list(carrier_classes(factors))
    met = {"X"}
    masks = []
    for position, factor in enumerate(order):
        met.add(factor)
        waiting = {"Y", *order[position:]}
        masks.append(np.array([bool(c & met and c & waiting) for c in classes]))
    return masks


def canonical(points: Points, factors: int) -> NDArray[np.bool_]:
    """Which points are named as the normal form names them; exactly one of each class is."""
    letters = FACTOR_LETTERS[:factors]
    classes = list(carrier_classes(factors))
    position = {carriers: i for i, carriers in enumerate(classes)}
    renamed = {}
    costs = {}
    for order in permutations(letters):
        names = dict(zip(letters, order, strict=True))
        columns = [position[frozenset(names.get(t, t) for t in carriers)] for carriers in classes]
        renamed[order] = points[:, columns]
        costs[order] = np.max([points[:, mask].sum(axis=1) for mask in step_masks(factors, order)], axis=0)
    own = costs[tuple(letters)]
    chosen = own == np.min(list(costs.values()), axis=0)
    for order, other in renamed.items():
        chosen &= (costs[order] > own) | _not_larger(points, other)
    return np.asarray(chosen)


def _not_larger(left: Points, right: Points) -> NDArray[np.bool_]:
    """Row-wise lexicographic left ≤ right."""
    difference = np.sign(left - right)
    first = np.argmax(difference != 0, axis=1)
    return np.asarray(difference[np.arange(len(left)), first] <= 0)
