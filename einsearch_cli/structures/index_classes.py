"""The index classes of N factors: the sets of factors that can carry an index.

A set of factors is a bit mask (bit 0 is A), so that an array of exponents has a
column per mask. Columns stand in the order of the θ vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations

from einsearch_cli.structures.normal_form import Carriers, carrier_classes

Renaming = tuple[int, ...]
"""A renaming of the factors: `renaming[f]` is the new number of factor f."""


@dataclass(frozen=True)
class IndexClasses:
    """Index classes of structures with `factors` factors.

    >>> [sum(map(len, c.groups)) for c in map(IndexClasses, (1, 2, 3, 4))]
    [2, 7, 18, 41]
    """

    factors: int
    block_diagonal: bool = False
    """Whether an index may be carried by both X and Y."""

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """Sets of factors that can carry an input (or output) index."""
        return tuple(
            sum(1 << f for f in subset)
            for size in range(1, self.factors + 1)
            for subset in combinations(range(self.factors), size)
        )

    @cached_property
    def bonds(self) -> tuple[int, ...]:
        """Sets of factors that can carry a bond."""
        return tuple(mask for mask in self.sides if mask.bit_count() > 1)

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Sets of factors that can carry an index of both X and Y; the empty set is allowed."""
        return (0, *self.sides) if self.block_diagonal else ()

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The columns of a point in four groups: shared, input, output, bond."""
        return (self.shared, self.sides, self.sides, self.bonds)

    @cached_property
    def carriers(self) -> tuple[Carriers, ...]:
        """Carrier sets of all columns."""
        return tuple(carrier_classes(self.factors, self.block_diagonal))

    @cached_property
    def renamings(self) -> tuple[Renaming, ...]:
        """All renamings of the factors, the identity first."""
        return tuple(permutations(range(self.factors)))

    @cached_property
    def needs(self) -> tuple[tuple[int, ...], ...]:
        """For every reason to keep a factor, the sets of factors of which at least one must carry an index.

        A factor is absorbed by another one that carries all its indices. So each
        factor needs, for every other one, an index that the other does not carry.
        """
        if self.factors == 1:
            return ((1,),)
        return tuple(
            tuple(mask for mask in self.sides if mask >> factor & 1 and not mask >> other & 1)
            for factor, other in permutations(range(self.factors), 2)
        )


def members(mask: int) -> list[int]:
    """Numbers of the factors in a set.

    >>> members(0b101)
    [0, 2]
    """
    return [f for f in range(mask.bit_length()) if mask >> f & 1]


def renamed(mask: int, renaming: Renaming) -> int:
    """A set of factors after its factors were renamed."""
    return sum(1 << renaming[f] for f in members(mask))


def cycles(masks: Iterable[int], renaming: Renaming) -> list[list[int]]:
    """The cycles in which a renaming permutes sets of factors.

    >>> cycles((0b01, 0b10, 0b11), (1, 0))
    [[1, 2], [3]]
    """
    found: list[list[int]] = []
    seen: set[int] = set()
    for start in masks:
        cycle = []
        while start not in seen:
            seen.add(start)
            cycle.append(start)
            start = renamed(start, renaming)
        if cycle:
            found.append(cycle)
    return found


def cycle_types(renamings: Sequence[Renaming]) -> list[tuple[Renaming, int]]:
    """One renaming of each conjugacy class, and the size of the class."""
    classes: dict[tuple[int, ...], list[Renaming]] = {}
    for renaming in renamings:
        singletons = [1 << f for f in range(len(renaming))]
        lengths = tuple(sorted(len(cycle) for cycle in cycles(singletons, renaming)))
        classes.setdefault(lengths, []).append(renaming)
    return [(alike[0], len(alike)) for alike in classes.values()]
