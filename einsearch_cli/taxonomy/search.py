"""The search of a grid: branch over sides and bonds, prune by bounds on ω, ψ and ν.

A cut, a step or the size of a factor is the sum of a part from the input side, a part from the output side and a part
from every bond. So pairs of sides are tried first, one of each class under renaming, then one bond after another. At
every stage, exact bounds on what the open bonds can still add decide which partial structures go on. Work goes depth
first in chunks, so memory stays flat and results come out while the search runs.

Axes in this file: F linear forms, P structures, K combinations of bonds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.grid import Grid, Numbers
from einsearch_cli.structures.index_classes import Renaming
from einsearch_cli.taxonomy.limits import UNBOUNDED, Limits, common_unit
from einsearch_cli.taxonomy.linear_forms import FormValues, LinearForms, largest_value
from einsearch_cli.taxonomy.partial import Block, Partial, joined, needs_met
from einsearch_cli.taxonomy.side_pairs import SidePairs

CHUNK = 1 << 16
"""The number of partial structures that are examined at once."""
_BLOCK = 1024
"""The number of combinations of bonds that are tried at once where nothing is pruned."""


@dataclass(frozen=True, slots=True)
class StructureBatch:
    """Some of the structures found, and the progress of the search. ω, ψ and ν are whole numbers of the search's unit."""

    numbers: Numbers
    """Normal forms as points of the grid."""
    transposes: Numbers
    """Normal forms of the transposed matrices; empty unless requested."""
    omega: FormValues
    psi: FormValues
    nu: FormValues
    done: float
    """Share of the search that is done."""

    def __len__(self) -> int:
        return len(self.numbers)

    def only(self, chosen: NDArray[Any]) -> StructureBatch:
        transposes = self.transposes[chosen] if len(self.transposes) else self.transposes
        return StructureBatch(
            self.numbers[chosen], transposes, self.omega[chosen], self.psi[chosen], self.nu[chosen], self.done
        )


@dataclass(frozen=True, slots=True)
class _Slack:
    """The largest changes that the open bonds can still make."""

    needs: int
    cuts: tuple[int, ...]
    """Added to every cut."""
    sharing: tuple[tuple[int, ...], ...]
    """A table [factor][move]: the exponents added to the factor but not to the step of the move."""


class Search:
    """All structures of a grid within limits, one of each class under renaming of the factors.

    With a token exponent τ, ν and ω are those of the best contraction tree for
    calls of d^τ tokens. They and the limits on them are whole numbers of
    1/`common_unit(grid, τ)`, which is 1/grid without τ.

    >>> from einsearch_cli.structures.index_classes import IndexClasses
    >>> search = Search(Grid(IndexClasses(2), 2), Limits(min_psi=2, max_omega=0, max_nu=1))
    >>> [str(s) for batch in search.batches() for s in search.grid.structures(batch.numbers)]
    ['XA^1/2 XAB^1/2 YB^1/2 YAB^1/2', 'XA^1/2 XAB^1/2 YA^1/2 YB^1/2', 'XA^1/2 XB^1/2 YB^1/2 YAB^1/2']
    """

    def __init__(
        self, grid: Grid, limits: Limits | None = None, transposes: bool = False, tokens: Fraction | None = None
    ) -> None:
        self.grid = grid
        self._limits = limits or Limits()
        self._transposes = transposes
        self._classes = grid.classes
        self._unit = common_unit(grid.grid, tokens)
        self._forms = LinearForms.of(grid.classes, self._unit, tokens)
        self._names = CanonicalNames(grid, self._forms)
        columns = len(self._classes.carriers)
        self._low = np.array(self._limits.lowest or (0,) * columns)
        self._high = np.minimum(np.array(self._limits.highest or (grid.grid,) * columns), grid.grid)
        largest = largest_value(grid.classes, self._unit)
        self._dtype = np.int8 if largest < 127 else np.int16 if largest < 32_000 else np.int32
        weights_FC = self._forms.matrix_FC.astype(np.int64) * (self._unit // grid.grid)
        self._weights_FC: FormValues = weights_FC.astype(self._dtype)
        self._pairs = SidePairs(grid, self._low, self._high, self._weights_FC)
        self._done = 0.0

    def batches(self) -> Iterator[StructureBatch]:
        """The structures as they are found."""
        self._done = 0.0
        waiting: list[list[Partial]] = [[] for _ in range(len(self._blocks) + 1)]
        for chunk in self._pairs.chunks(CHUNK):
            self._wait(waiting, 0, chunk)
            yield from self._advance(waiting, 0, flush=False)
        for depth in range(len(waiting)):
            yield from self._advance(waiting, depth, flush=True)

    def _wait(self, waiting: list[list[Partial]], depth: int, partial: Partial) -> None:
        promising = self._pruned(partial, depth)
        if len(promising):
            waiting[depth].append(promising)
        else:
            self._done += partial.share

    def _advance(self, waiting: list[list[Partial]], depth: int, flush: bool) -> Iterator[StructureBatch]:
        """Continue with the structures that wait at a depth, if there are many or nothing else is left to do."""
        rows = sum(map(len, waiting[depth]))
        if rows == 0 or (rows < CHUNK and not flush):
            return
        ready = joined(waiting[depth])
        waiting[depth] = []
        if depth == len(self._blocks):
            self._done += ready.share
            yield self._finished(ready)
            return
        block = self._blocks[depth]
        step = max(1, CHUNK // len(block.bonds_K))
        for start in range(0, len(ready), step):
            self._wait(waiting, depth + 1, ready.rows(start, start + step).times(block))
            yield from self._advance(waiting, depth + 1, flush=False)

    # Bonds

    @cached_property
    def _bond_order(self) -> list[list[int]]:
        """The bonds by number, in the blocks in which they are chosen: bonds of most factors first."""
        bonds = sorted(range(len(self._classes.bonds)), key=lambda k: -self._classes.bonds[k].bit_count())
        at_once = 1
        if not self._limits.prunes:
            while at_once < len(bonds) and (self.grid.grid + 1) ** (at_once + 1) <= _BLOCK:
                at_once += 1
        return [bonds[k : k + at_once] for k in range(0, len(bonds), at_once)]

    def _bond_range(self, bond: int) -> tuple[int, int]:
        column = bond - len(self._classes.bonds)
        return int(self._low[column]), int(self._high[column])

    @cached_property
    def _bond_weights_FC(self) -> Numbers:
        """The exponents that every bond adds to every linear form."""
        return self._weights_FC[:, len(self._classes.carriers) - len(self._classes.bonds) :].astype(np.int64)

    @cached_property
    def _blocks(self) -> list[Block]:
        blocks = []
        for bonds in self._bond_order:
            ranges = [np.arange(low, high + 1) for low, high in map(self._bond_range, bonds)]
            values = np.array([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")])
            weights = np.array([self.grid.bond_weights[k] for k in bonds])
            masks = tuple(self._classes.bonds[k] for k in bonds)
            forms = (self._bond_weights_FC[:, bonds] @ values).astype(self._dtype)
            blocks.append(Block(weights @ values, needs_met(self._classes, values.T, masks), forms))
        return blocks

    @cached_property
    def _slacks(self) -> list[_Slack]:
        """The slack of the open bonds before each block, and after the last one."""
        return [self._slack(depth) for depth in range(len(self._bond_order) + 1)]

    def _slack(self, depth: int) -> _Slack:
        weights_FC = self._bond_weights_FC
        room = np.zeros(weights_FC.shape[1], dtype=np.int64)
        for bond in (bond for bonds in self._bond_order[depth:] for bond in bonds):
            room[bond] = self._bond_range(bond)[1]
        masks = tuple(mask for mask, high in zip(self._classes.bonds, room, strict=True) if high)
        needs = needs_met(self._classes, np.ones((1, len(masks)), dtype=np.int64), masks)
        cuts = tuple(int(weights_FC[row] @ room) for row in range(len(self._forms.cuts)))
        sharing = tuple(
            tuple(int((weights_FC[factor] * (weights_FC[move.row] == 0)) @ room) for move in self._forms.ways)
            for factor in self._forms.factor_rows
        )
        return _Slack(int(needs[0]), cuts, sharing)

    # Bounds

    def _pruned(self, partial: Partial, depth: int) -> Partial:
        """Drop partial structures that no choice of the open bonds can bring within the limits."""
        slack, limits = self._slacks[depth], self._limits
        if not limits.reducible:
            wanted = (1 << len(self._classes.needs)) - 1
            partial = partial.only((partial.needs | slack.needs) == wanted)
        if limits.min_psi > 0:
            enough = np.full(len(partial), self._unit >= limits.min_psi)
            for row, room in enumerate(slack.cuts):
                enough &= partial.values_FP[row] >= limits.min_psi - room
            partial = partial.only(enough)
        if limits.max_nu < UNBOUNDED:
            largest = self._forms.cheapest(partial.values_FP, self._forms.ways)
            partial = partial.only(largest <= self._unit + limits.max_nu)
        if limits.max_omega < UNBOUNDED:
            partial = partial.only(self._may_share_little(partial.values_FP, slack))
        return partial

    def _may_share_little(self, values_FP: FormValues, slack: _Slack) -> NDArray[np.bool_]:
        """Whether the open bonds can still bring ω within its limit."""
        # ω is the largest step of the best way less the largest factor. So it is within the limit if, for some factor, the
        # steps of some way all exceed that factor by the limit at most; open bonds can add `extra` to the difference.
        # `reached` marks, for every product of tensors, the structures in which such steps can form it.
        possible = np.zeros(values_FP.shape[1], dtype=bool)
        ways = self._forms.ways
        for row, room in zip(self._forms.factor_rows, slack.sharing, strict=True):
            reached: dict[int, NDArray[np.bool_]] = {}
            for move, extra in zip(ways, room, strict=True):
                most = self._limits.max_omega + extra + (self._forms.tokens or 0) * move.merges
                fits = values_FP[move.row] - values_FP[row] <= most
                for part in (move.left, move.right):
                    if part in reached:
                        fits &= reached[part]
                reached[move.whole] = reached[move.whole] | fits if move.whole in reached else fits
            possible |= reached[ways[-1].whole]
        return possible

    # Results

    def _finished(self, found: Partial) -> StructureBatch:
        found = found.only(self._one_per_class(found))
        numbers = self._names.of(found)
        if len(self._pairs.group) < len(self._classes.renamings):
            own = self._names.among(found, numbers, self._pairs.group)
            found, numbers = found.only(own), numbers[own]
        transposes = self._names.of_transposes(found) if self._transposes else np.zeros(0, dtype=np.int64)
        omega, psi, nu = self._forms.taxonomy(found.values_FP, self._unit)
        return StructureBatch(numbers, transposes, omega, psi, nu, min(1.0, self._done))

    def _one_per_class(self, found: Partial) -> NDArray[np.bool_]:
        """Keep the smallest of the bonds that the renamings exchange, where these leave both sides unchanged."""
        smallest = np.ones(len(found), dtype=bool)
        places = np.flatnonzero(found.symmetric)
        inputs, outputs, bonds = found.inputs[places], found.outputs[places], found.bonds[places]
        for renaming in self._pairs.group[1:]:
            fixed = self.grid.renamed_inputs[renaming][inputs] == inputs
            fixed &= self.grid.renamed_outputs[renaming][outputs] == outputs
            smallest[places] &= ~fixed | (self.grid.renamed_bonds(bonds, renaming) >= bonds)
        return smallest


class CanonicalNames:
    """Names factors in the cheapest order of meeting the activation; ties go to the smallest θ."""

    def __init__(self, grid: Grid, forms: LinearForms) -> None:
        self._grid = grid
        self._forms = forms

    def of(self, found: Partial) -> Numbers:
        """Numbers of the normal forms."""
        return self._smallest(found, found.inputs, found.outputs, reverse=False)

    def of_transposes(self, found: Partial) -> Numbers:
        """Numbers of the normal forms of the transposed matrices.

        An order of the factors costs a transpose what the reverse costs the structure.
        """
        inputs, outputs = self._grid.transposed_sides(found.inputs, found.outputs)
        return self._smallest(found, inputs, outputs, reverse=True)

    def among(self, found: Partial, names: Numbers, renamings: list[Renaming]) -> NDArray[np.bool_]:
        """Whether one of the renamings leads to the name."""
        own = np.zeros(len(found), dtype=bool)
        for renaming in renamings:
            own |= self._renamed(found.inputs, found.outputs, found.bonds, renaming) == names
        return own

    def _smallest(self, found: Partial, inputs: Numbers, outputs: Numbers, reverse: bool) -> Numbers:
        cheapest = self._forms.cheapest(found.values_FP, self._forms.orders)
        names = np.full(len(found), np.iinfo(np.int64).max)
        last = self._grid.classes.factors - 1
        for renaming in self._grid.classes.renamings:
            order = tuple(last - new for new in renaming) if reverse else renaming
            rows = np.flatnonzero(self._forms.cost(found.values_FP, order) == cheapest)
            there = self._renamed(inputs[rows], outputs[rows], found.bonds[rows], renaming)
            names[rows] = np.minimum(names[rows], there)
        return names

    def _renamed(self, inputs: Numbers, outputs: Numbers, bonds: Numbers, renaming: Renaming) -> Numbers:
        return self._grid.number(
            self._grid.renamed_inputs[renaming][inputs],
            self._grid.renamed_outputs[renaming][outputs],
            self._grid.renamed_bonds(bonds, renaming),
        )
