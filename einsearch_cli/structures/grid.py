"""All structures on a grid of exponents, each known by one whole number.

A point of the grid is an input side (with the indices that X and Y share, where these are allowed), an output side, and
the bonds. Each of the three is numbered in the lexicographic order of its exponents. The three numbers together are the
number of the point, so a smaller number means a lexicographically smaller θ.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.grid_counts import raw_count
from einsearch_cli.structures.index_classes import IndexClasses, Renaming, renamed
from einsearch_cli.structures.normal_form import text_of_carriers
from einsearch_cli.structures.structure import Structure

Rows = NDArray[np.int16]
Numbers = NDArray[np.int64]
GridPoints = Rows
"""One row per point: whole numbers of q-ths, columns in the order of the θ vector."""
MAX_SIDES = 200_000
"""The most input or output sides that are held in memory."""
_MAX_BOND_TABLE = 300_000
_ROWS = 4096


class Grid:
    """The points of a space whose exponents are multiples of 1/grid.

    Raises:
        StructureError: if the sides alone are too many to hold in memory.

    >>> grid = Grid(IndexClasses(2), 2)
    >>> str(next(grid.structures(np.array([40]))))
    'XB^1 YB^1/2 YAB^1/2 AB^1/2'
    """

    def __init__(self, classes: IndexClasses, grid: int) -> None:
        refuse_too_many_sides(classes, grid)
        self.classes = classes
        self.grid = grid
        self.inputs = compositions(grid, len(classes.shared) + len(classes.sides))
        """Exponents of every input side: first those that the output shares, then those of the input alone."""
        self.filled = self.inputs[:, len(classes.shared) :].sum(axis=1, dtype=np.int16)
        """The remainder that the shared indices leave to the input and to the output."""
        totals = range(grid + 1) if classes.block_diagonal else range(grid, grid + 1)
        sides = [compositions(total, len(classes.sides)) for total in totals]
        self.outputs = np.concatenate(sides)
        self._starts = dict(zip(totals, np.cumsum([0, *map(len, sides)]).tolist(), strict=False))
        self.bond_count: int = (grid + 1) ** len(classes.bonds)

    @property
    def output_rows(self) -> dict[int, range]:
        """The range of numbers of the output sides with every total of their exponents."""
        ends = [*list(self._starts.values())[1:], len(self.outputs)]
        return {total: range(start, end) for (total, start), end in zip(self._starts.items(), ends, strict=True)}

    @property
    def bond_weights(self) -> tuple[int, ...]:
        """Place values of the bonds in the number of their combination."""
        bonds = len(self.classes.bonds)
        return tuple((self.grid + 1) ** (bonds - 1 - k) for k in range(bonds))

    def number(self, inputs: Numbers, outputs: Numbers, bonds: Numbers) -> Numbers:
        """The numbers of points, from the numbers of their three parts."""
        return (inputs.astype(np.int64) * len(self.outputs) + outputs) * self.bond_count + bonds

    def parts(self, numbers: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """The numbers of the input sides, output sides and bonds of points."""
        sides, bonds = np.divmod(numbers, self.bond_count)
        inputs, outputs = np.divmod(sides, len(self.outputs))
        return inputs, outputs, bonds

    def points(self, numbers: Numbers) -> GridPoints:
        """The exponents of points, one row each."""
        inputs, outputs, bonds = self.parts(numbers)
        return np.concatenate([self.inputs[inputs], self.outputs[outputs], self.bond_values(bonds)], axis=1)

    def bond_values(self, bonds: Numbers) -> GridPoints:
        """The exponents of the bonds, one row each."""
        columns = [(bonds // weight % (self.grid + 1)).astype(np.int16) for weight in self.bond_weights]
        return np.stack(columns, axis=1) if columns else np.zeros((len(bonds), 0), dtype=np.int16)

    def structures(self, numbers: Numbers) -> Iterator[Structure]:
        """The structures of points that are in normal form."""
        powers = [Extent.power(Fraction(n, self.grid)) for n in range(self.grid + 1)]
        for row in self._rows(numbers):
            yield Structure.in_normal_form({c: powers[n] for c, n in zip(self.classes.carriers, row, strict=True) if n})

    def texts(self, numbers: Numbers) -> Iterator[str]:
        """The text of the structures of points that are in normal form, as `str` gives it."""
        terms = [
            [f"{text_of_carriers(c)}^{Fraction(n, self.grid)} " if n else "" for n in range(self.grid + 1)]
            for c in self.classes.carriers
        ]
        for row in self._rows(numbers):
            yield "".join([term[n] for term, n in zip(terms, row, strict=True)])[:-1]

    def _rows(self, numbers: Numbers) -> Iterator[list[int]]:
        for start in range(0, len(numbers), _ROWS):
            yield from self.points(numbers[start : start + _ROWS]).tolist()

    @cached_property
    def renamed_inputs(self) -> dict[Renaming, Numbers]:
        """For every renaming of the factors, the number of each input side after it."""
        columns = (self.classes.shared, self.classes.sides)
        return {
            renaming: composition_ranks(self.inputs[:, _sources(columns, renaming)], self.grid)
            for renaming in self.classes.renamings
        }

    @cached_property
    def renamed_outputs(self) -> dict[Renaming, Numbers]:
        """For every renaming of the factors, the number of each output side after it."""
        found = {}
        for renaming in self.classes.renamings:
            rows = self.outputs[:, _sources((self.classes.sides,), renaming)]
            parts = [self.output_number(rows[r.start : r.stop], total) for total, r in self.output_rows.items()]
            found[renaming] = np.concatenate(parts)
        return found

    def output_number(self, rows: GridPoints, total: int) -> Numbers:
        """The numbers of output sides whose exponents sum to `total`."""
        return composition_ranks(rows, total) + np.int64(self._starts[total])

    def renamed_bonds(self, bonds: Numbers, renaming: Renaming) -> Numbers:
        """The number of each combination of bonds after a renaming of the factors."""
        if self.bond_count <= _MAX_BOND_TABLE:
            return self._bond_tables[renaming][bonds]
        return self._rename_bonds(bonds, renaming)

    @cached_property
    def _bond_tables(self) -> dict[Renaming, Numbers]:
        every = np.arange(self.bond_count)
        return {renaming: self._rename_bonds(every, renaming) for renaming in self.classes.renamings}

    def _rename_bonds(self, bonds: Numbers, renaming: Renaming) -> Numbers:
        weights = dict(zip(self.classes.bonds, self.bond_weights, strict=True))
        total = np.zeros(len(bonds), dtype=np.int64)
        for mask, weight in weights.items():
            total += bonds // weight % (self.grid + 1) * weights[renamed(mask, renaming)]
        return total

    def transposed_sides(self, inputs: Numbers, outputs: Numbers) -> tuple[Numbers, Numbers]:
        """Input and output sides of the transposed matrices."""
        shared = len(self.classes.shared)
        rows = self.inputs[inputs]
        new_inputs = composition_ranks(np.concatenate([rows[:, :shared], self.outputs[outputs]], axis=1), self.grid)
        new_outputs = np.zeros(len(inputs), dtype=np.int64)
        for total in self._starts:
            chosen = self.filled[inputs] == total
            new_outputs[chosen] = self.output_number(rows[chosen, shared:], total)
        return new_inputs, new_outputs


def _sources(columns: tuple[tuple[int, ...], ...], renaming: Renaming) -> list[int]:
    """For every column after a renaming, the column that it comes from."""
    places: list[int] = []
    for masks in columns:
        new = [renamed(mask, renaming) for mask in masks]
        places += [len(places) + new.index(mask) for mask in masks]
    return places


def refuse_too_many_sides(classes: IndexClasses, grid: int) -> None:
    """Raise StructureError for a grid that cannot be held in memory, before anything is allocated."""
    factors = classes.factors
    if factors < 1 or grid < 1:
        raise StructureError(
            f"factors = {factors}, grid = {grid}: both must be at least 1", remedy="choose --factors 2 --grid 4"
        )
    parts = len(classes.shared) + len(classes.sides)
    sides = comb(grid + parts - 1, parts - 1)
    points = raw_count(factors, grid, classes.block_diagonal)
    if sides > MAX_SIDES or points >= 2**62:
        raise StructureError(
            f"{factors} factors on a grid of 1/{grid} have {points:,} points with {sides:,} input sides: "
            f"at most {MAX_SIDES:,} sides and 2^62 points can be searched",
            remedy="choose a coarser --grid or fewer --factors, or draw some with einsearch sample",
        )


def compositions(total: int, parts: int) -> Rows:
    """All ways to write `total` as an ordered sum of `parts` whole numbers, in lexicographic order.

    >>> compositions(2, 2).tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    rows = comb(total + parts - 1, parts - 1)
    bars = (bar for chosen in combinations(range(total + parts - 1), parts - 1) for bar in chosen)
    edges = np.full((rows, parts + 1), -1, dtype=np.int16)
    edges[:, 1:-1] = np.fromiter(bars, dtype=np.int16, count=rows * (parts - 1)).reshape(rows, parts - 1)
    edges[:, -1] = total + parts - 1
    return np.diff(edges, axis=1).astype(np.int16) - np.int16(1)


def composition_ranks(rows: Rows, total: int) -> Numbers:
    """The place of every row in `compositions`.

    >>> composition_ranks(compositions(3, 4), 3).tolist() == list(range(20))
    True
    """
    parts = rows.shape[1]
    ranks = np.zeros(len(rows), dtype=np.int64)
    left = np.full(len(rows), total, dtype=np.int64)
    for position in range(parts - 1):
        ranks += _passed(total, parts - position - 1)[left, rows[:, position]]
        left -= rows[:, position]
    return ranks


def _passed(total: int, after: int) -> Numbers:
    """A table [left, entry]: compositions of `left` into 1 + `after` parts that begin with less than `entry`."""
    table = np.zeros((total + 1, total + 1), dtype=np.int64)
    for left in range(total + 1):
        for entry in range(1, left + 1):
            rest = left - entry + 1
            table[left, entry] = table[left, entry - 1] + comb(rest + after - 1, after - 1)
    return table
