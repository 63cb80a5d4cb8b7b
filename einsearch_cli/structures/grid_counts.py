"""How many structures a grid has, in closed form: Burnside's lemma and inclusion–exclusion."""

from __future__ import annotations

from functools import lru_cache
from math import comb, factorial

from einsearch_cli.structures.index_classes import IndexClasses, Renaming, cycle_types, cycles


def raw_count(factors: int, grid: int, block_diagonal: bool = False) -> int:
    """Grid points: one composition per side, and any value for every bond.

    >>> raw_count(2, 4), raw_count(3, 4)
    (1125, 27562500)
    """
    sides = 2**factors - 1
    bonds: int = 2**factors - factors - 1
    shared = 2**factors
    filled = range(grid + 1) if block_diagonal else range(1)
    points = sum(comb(t + shared - 1, t) * comb(grid - t + sides - 1, sides - 1) ** 2 for t in filled)
    return points * int((grid + 1) ** bonds)


def distinct_count(factors: int, grid: int, block_diagonal: bool = False, up_to_transpose: bool = False) -> int:
    """Grid points up to renaming of the factors, by Burnside's lemma.

    The number is the mean, over all renamings, of the number of points that a renaming leaves as they are. Such a point
    has one value per cycle of index classes.

    >>> [distinct_count(2, q) for q in (2, 3, 4)], distinct_count(3, 4)
    ([60, 208, 585], 4650075)
    """
    every = IndexClasses(factors).sides
    return _orbits(IndexClasses(factors, block_diagonal), grid, {frozenset(every): 1}, up_to_transpose)


def irreducible_count(factors: int, grid: int, block_diagonal: bool = False, up_to_transpose: bool = False) -> int:
    """Structures that need all their factors, up to renaming.

    Burnside's lemma over the points in which no factor is absorbed, which are
    counted by inclusion and exclusion of the pairs (factor, other one that
    carries all its indices).

    >>> [irreducible_count(n, 4) for n in (1, 2)]
    [1, 460]
    """
    classes = IndexClasses(factors, block_diagonal)
    return _orbits(classes, grid, _signed_supports(factors), up_to_transpose)


Supports = dict[frozenset[int], int]
"""Sets of index classes with signed counts: how often the points that use only these classes are counted."""


@lru_cache
def _signed_supports(factors: int) -> Supports:
    """Inclusion–exclusion: the index classes that stay when every need of a chosen set is unmet."""
    classes = IndexClasses(factors)
    found: Supports = {frozenset(classes.sides): 1}
    for need in classes.needs:
        for support, sign in list(found.items()):
            without = support - set(need)
            found[without] = found.get(without, 0) - sign
        found = {support: sign for support, sign in found.items() if sign}
    return found


def _orbits(classes: IndexClasses, grid: int, supports: Supports, up_to_transpose: bool) -> int:
    total = 0
    for renaming, alike in cycle_types(classes.renamings):
        fixed = _Fixed(classes, renaming, grid)
        for support, sign in supports.items():
            total += alike * sign * fixed.points(support)
            if up_to_transpose:
                total += alike * sign * fixed.points_of_transposing(support)
    return total // (factorial(classes.factors) * (2 if up_to_transpose else 1))


class _Fixed:
    """Counts the grid points on some index classes that a renaming leaves as they are."""

    def __init__(self, classes: IndexClasses, renaming: Renaming, grid: int) -> None:
        self._grid = grid
        self._cycles = cycles(classes.sides, renaming)
        self._shared = classes.block_diagonal

    def points(self, support: frozenset[int]) -> int:
        live = [cycle for cycle in self._cycles if support.issuperset(cycle)]
        sides = _sums(tuple(sorted(map(len, live))), self._grid)
        return self._with_shared(live, [ways * ways for ways in sides]) * self._bond_values(live)

    def points_of_transposing(self, support: frozenset[int]) -> int:
        """The number of points that the renaming takes to their transpose; the input then determines the output.

        The square of the renaming leaves the input as it is. A cycle of even length falls into two halves in the
        square.
        """
        live = [cycle for cycle in self._cycles if support.issuperset(cycle)]
        halves = [
            length
            for cycle in live
            for length in ([len(cycle)] if len(cycle) % 2 else [len(cycle) // 2, len(cycle) // 2])
        ]
        return self._with_shared(live, list(_sums(tuple(sorted(halves)), self._grid))) * self._bond_values(live)

    def _with_shared(self, live: list[list[int]], sides: list[int]) -> int:
        """The number of points when both sides take what the indices shared by X and Y leave."""
        if not self._shared:
            return sides[self._grid]
        shared = _sums(tuple(sorted([1, *map(len, live)])), self._grid)
        return sum(ways * sides[self._grid - t] for t, ways in enumerate(shared))

    def _bond_values(self, live: list[list[int]]) -> int:
        return int((self._grid + 1) ** sum(cycle[0].bit_count() > 1 for cycle in live))


@lru_cache(maxsize=4096)
def _sums(weights: tuple[int, ...], total: int) -> tuple[int, ...]:
    """For every value up to `total`, the number of ways to write it as a sum of multiples of the weights.

    >>> _sums((1, 2), 4)
    (1, 1, 2, 2, 3)
    """
    ways = [1] + [0] * total
    for weight in weights:
        for value in range(weight, total + 1):
            ways[value] += ways[value - weight]
    return tuple(ways)


def points_within(
    classes: IndexClasses, grid: int, lowest: tuple[int, ...] | None, highest: tuple[int, ...] | None
) -> int:
    """Grid points whose exponents are all within limits, columns in the order of the θ vector.

    >>> points_within(IndexClasses(2), 4, None, None) == raw_count(2, 4)
    True
    >>> points_within(IndexClasses(2), 4, (0,) * 7, (4, 4, 0, 4, 4, 0, 2))
    75
    """
    if lowest is None or highest is None:
        return raw_count(classes.factors, grid, classes.block_diagonal)
    ranges = list(zip(lowest, highest, strict=True))
    groups = []
    for masks in classes.groups:
        groups.append(ranges[: len(masks)])
        ranges = ranges[len(masks) :]
    shared, inputs, outputs = (_bounded_sums(group, grid) for group in groups[:3])
    points = sum(shared[t] * inputs[grid - t] * outputs[grid - t] for t in range(grid + 1))
    for low, high in groups[3]:
        points *= max(0, high - low + 1)
    return points


def _bounded_sums(ranges: list[tuple[int, int]], total: int) -> list[int]:
    """For every value up to `total`, the number of ways to write it as a sum of numbers within ranges."""
    ways = [1] + [0] * total
    for low, high in ranges:
        ways = [sum(ways[value - n] for n in range(low, min(high, value) + 1)) for value in range(total + 1)]
    return ways
