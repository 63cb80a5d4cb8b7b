"""Whole spaces of structures: how many there are, and the search for those within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.grid import Grid, Numbers, refuse_too_many_sides
from einsearch_cli.structures.grid_counts import distinct_count, irreducible_count, points_within, raw_count
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.criteria import Bounds
from einsearch_cli.taxonomy.limits import EVERYTHING, ExponentRange, Limits, common_unit, grid_limits
from einsearch_cli.taxonomy.search import Search, StructureBatch
from einsearch_cli.taxonomy.side_pairs import renamings_within

MAX_DISTINCT = 1_000_000_000
"""The most structures that can be visited one by one (in ten minutes to an hour)."""
MAX_PRUNED = 10**15
"""The most structures of a space that a bound of ν ≤ 1 or less prunes; about 10^-6 of them survive."""
_ROWS = 4096

Triple = tuple[int, int, int]
"""ω, ψ, ν in a common unit."""


@dataclass(frozen=True, slots=True)
class Space:
    """The structures on a grid of exponents that are within bounds."""

    grid: int
    """The denominator of the exponents: they are multiples of 1/grid."""
    factors: int = 2
    """The largest number of factors."""
    bounds: Bounds = field(default=EVERYTHING)
    family: str | None = None
    """The only family to keep, if given."""
    ranges: tuple[ExponentRange, ...] = ()
    """Bounds on the exponents of carrier sets, with factors named as in the normal form."""
    exactly: bool = False
    """Whether to leave out structures with fewer factors."""
    up_to_transpose: bool = False
    """Whether to keep one of each pair of transposed structures."""
    block_diagonal: bool = False
    """Whether indices may be carried by both X and Y."""
    pareto: bool = False
    """Whether to keep only structures that no other one beats in ω, ψ and ν together."""
    tokens: Fraction | None = None
    """The exponent τ of calls of d^τ tokens, whose best contraction tree gives ν and ω; None: the best order."""

    @property
    def factor_counts(self) -> range:
        return range(self.factors if self.exactly else 1, self.factors + 1)

    def classes(self, factors: int) -> IndexClasses:
        return IndexClasses(factors, self.block_diagonal)

    @property
    def unit(self) -> int:
        """The denominator of ω, ψ and ν: they are whole numbers of 1/unit."""
        return common_unit(self.grid, self.tokens)

    def limits(self, factors: int) -> Limits | None:
        """The limits for structures with this many factors; None if none can meet them."""
        return grid_limits(self.classes(factors), self.grid, self.bounds, self.ranges, self.tokens)

    def points(self, factors: int) -> int:
        """The approximate number of grid points with this many factors within the ranges, up to renaming."""
        limits, classes = self.limits(factors), self.classes(factors)
        if limits is None:
            return 0
        alike = math.factorial(factors)
        if limits.lowest is not None and limits.highest is not None:
            alike = len(renamings_within(classes, np.array(limits.lowest), np.array(limits.highest)))
        return -(-points_within(classes, self.grid, limits.lowest, limits.highest) // alike)


@dataclass(frozen=True, slots=True)
class SpaceCounts:
    """The size of a space; all counts are of structures with exactly `factors` factors."""

    factors: int
    grid: int
    raw: int
    """All grid points."""
    distinct: int
    """Grid points up to renaming of the factors, by Burnside's lemma."""
    irreducible: int
    """Distinct structures that need all their factors, by Burnside's lemma and inclusion–exclusion."""
    survivors: int
    """Irreducible structures within the bounds, counted by a search."""


@dataclass(frozen=True, slots=True)
class Found:
    """Some structures of a space with the same number of factors."""

    grid: Grid
    unit: int
    """The denominator of ω, ψ and ν: they are whole numbers of 1/unit."""
    batch: StructureBatch
    done: float
    """The share of the whole search that is done."""

    @property
    def factors(self) -> int:
        return self.grid.classes.factors

    def structures(self) -> Iterator[Structure]:
        return self.grid.structures(self.batch.numbers)

    def texts(self) -> Iterator[str]:
        """The carrier notation of every structure."""
        return self.grid.texts(self.batch.numbers)

    def taxonomy(self) -> Iterator[Triple]:
        """ω, ψ and ν of every structure in units of 1/unit."""
        for start in range(0, len(self.batch), _ROWS):
            part = (values[start : start + _ROWS] for values in (self.batch.omega, self.batch.psi, self.batch.nu))
            yield from zip(*(values.tolist() for values in part), strict=True)


def search(space: Space) -> Iterator[Found]:
    """The structures of a space as they are found, each once, in no particular order.

    Raises:
        StructureError: if the space is too large to be searched, before anything is allocated;
            see `refuse_too_large`.
    """
    if space.pareto:
        yield from _search_front(space)
        return
    for factors in space.factor_counts:
        refuse_too_many_sides(space.classes(factors), space.grid)
    _refuse_fine_unit(space)
    weights = {factors: space.points(factors) for factors in space.factor_counts}
    total, before = max(1, sum(weights.values())), 0
    for factors in space.factor_counts:
        limits = space.limits(factors)
        if limits is not None:
            grid = _grid(space.classes(factors), space.grid)
            for batch in Search(grid, limits, space.up_to_transpose, space.tokens).batches():
                kept = _filtered(space, grid, batch)
                yield Found(grid, space.unit, kept, (before + kept.done * weights[factors]) / total)
        before += weights[factors]


@cache
def _grid(classes: IndexClasses, grid: int) -> Grid:
    return Grid(classes, grid)


def _search_front(space: Space) -> Iterator[Found]:
    """Search twice: first for the taxonomy alone, then for the Pareto front, which bounds the second search."""
    everything = replace(space, pareto=False)
    triples: set[Triple] = set()
    for found in search(everything):
        triples = pareto_front(triples | _triples(np.unique(_triple_numbers(found.batch))))
        yield replace(found, batch=found.batch.only(np.zeros(len(found.batch), dtype=bool)), done=found.done / 2)
    if not triples:
        return
    omegas, psis, nus = zip(*triples, strict=True)
    bounds = Bounds(*(Fraction(n, space.unit) for n in (min(psis), max(omegas), max(nus))))
    for found in search(replace(everything, bounds=bounds)):
        numbers = _triple_numbers(found.batch)
        passing = [number for number in np.unique(numbers) if _triples(np.array([number])) <= triples]
        yield replace(found, batch=found.batch.only(np.isin(numbers, passing)), done=(1 + found.done) / 2)


def pareto_front(triples: Iterable[Triple]) -> set[Triple]:
    """The triples that no other one beats: no larger ω and ν, no smaller ψ, and one of them better.

    >>> sorted(pareto_front({(0, 4, 4), (0, 4, 2), (0, 2, 2), (1, 4, 1), (2, 3, 1)}))
    [(0, 4, 2), (1, 4, 1)]
    """
    kept: set[Triple] = set()
    for omega, psi, nu in sorted(set(triples), key=lambda triple: (triple[0], -triple[1], triple[2])):
        if not any(psi <= other_psi and nu >= other_nu for _, other_psi, other_nu in kept):
            kept.add((omega, psi, nu))
    return kept


_BASE = 1 << 20
"""The base of the digits: ω, ψ and ν in units lie between minus half of this and half of it."""


def _triple_numbers(batch: StructureBatch) -> Numbers:
    """ω, ψ and ν together as one whole number."""
    half = _BASE // 2
    omega, psi, nu = (values.astype(np.int64) + half for values in (batch.omega, batch.psi, batch.nu))
    return (omega * _BASE + psi) * _BASE + nu


def _triples(numbers: Numbers) -> set[Triple]:
    half = _BASE // 2
    omega, rest = np.divmod(numbers, _BASE * _BASE)
    psi, nu = np.divmod(rest, _BASE)
    return set(zip((omega - half).tolist(), (psi - half).tolist(), (nu - half).tolist(), strict=True))


def _filtered(space: Space, grid: Grid, batch: StructureBatch) -> StructureBatch:
    if space.family is not None:
        batch = batch.only(_of_family(space, grid, batch.numbers))
    if space.up_to_transpose:
        first = batch.numbers <= batch.transposes
        later = np.flatnonzero(~first)
        first[later] = ~_passes(space, grid, batch.transposes[later])
        batch = batch.only(first)
    return batch


def _passes(space: Space, grid: Grid, numbers: Numbers) -> NDArray[np.bool_]:
    """Whether structures that pass every other test are also within the ranges and of the family."""
    limits = space.limits(grid.classes.factors)
    passed = np.ones(len(numbers), dtype=bool) if limits is None else limits.hold(grid.points(numbers))
    if space.family is not None:
        passed &= _of_family(space, grid, numbers)
    return passed


def _of_family(space: Space, grid: Grid, numbers: Numbers) -> NDArray[np.bool_]:
    return np.array([family_of(s) == space.family for s in grid.structures(numbers)], dtype=bool)


def survivors(space: Space) -> list[Structure]:
    """The structures of a space in normal form, best first: by falling ψ, then rising ω, ν, factors and θ.

    Raises:
        StructureError: if the space is too large to enumerate.

    >>> len(survivors(Space(grid=2))), len(survivors(Space(grid=2, bounds=Bounds(max_nu=Fraction(1, 2)))))
    (34, 3)
    """
    refuse_too_large(space)
    return [structure for found in best_first(list(search(space))) for structure in found.structures()]


def best_first(found: list[Found]) -> list[Found]:
    """All structures found, sorted by falling ψ, then rising ω, ν, factors and θ."""
    if not found:
        return []
    of_factors, unit = {item.factors: item.grid for item in found}, found[0].unit
    factors = np.concatenate([np.full(len(item.batch), item.factors, dtype=np.int8) for item in found])
    numbers, omega, psi, nu = (
        np.concatenate([getattr(item.batch, name) for item in found]) for name in ("numbers", "omega", "psi", "nu")
    )
    order = np.lexsort((numbers, factors, nu, omega, -psi.astype(np.int32)))
    starts = [0, *(np.flatnonzero(np.diff(factors[order])) + 1).tolist(), len(order)]
    nothing = np.zeros(0, dtype=np.int64)
    pieces = [order[start:stop] for start, stop in pairwise(starts) if stop > start]
    return [
        Found(
            of_factors[int(factors[p[0]])], unit, StructureBatch(numbers[p], nothing, omega[p], psi[p], nu[p], 1.0), 1.0
        )
        for p in pieces
    ]


def count(space: Space, on_progress: Callable[[float], None] = lambda _: None) -> SpaceCounts:
    """The size of the space with exactly `space.factors` factors; a search runs only if there are bounds.

    >>> count(Space(grid=4, factors=3))
    SpaceCounts(factors=3, grid=4, raw=27562500, distinct=4650075, irreducible=4127425, survivors=4127425)
    """
    options = (space.factors, space.grid, space.block_diagonal)
    irreducible = irreducible_count(*options, space.up_to_transpose)
    if is_filtered(space):
        refuse_too_large(space)
        wanted = space if space.pareto else replace(space, exactly=True)
        kept = 0
        for found in search(wanted):
            kept += len(found.batch) if found.factors == space.factors else 0
            on_progress(found.done)
    else:
        kept = irreducible
    return SpaceCounts(
        factors=space.factors,
        grid=space.grid,
        raw=raw_count(*options),
        distinct=distinct_count(*options, space.up_to_transpose),
        irreducible=irreducible,
        survivors=kept,
    )


def is_filtered(space: Space) -> bool:
    """Whether survivors have to be searched for."""
    limits = space.limits(space.factors)
    return bool(limits is None or limits.prunes or space.ranges or space.family or space.pareto)


def refuse_too_large(space: Space) -> None:
    """Raise StructureError for a space that cannot be searched in reasonable time.

    Raises:
        StructureError: with the number of its structures and what would make it feasible.
    """
    points = max((space.points(factors) for factors in space.factor_counts), default=0)
    limits = space.limits(space.factors)
    prunes_well = limits is not None and limits.max_nu <= space.unit and space.tokens is None
    most = MAX_PRUNED if prunes_well else MAX_DISTINCT
    if points <= most:
        return
    raw = raw_count(space.factors, space.grid, space.block_diagonal)
    raise StructureError(
        f"{space.factors} factors on a grid of 1/{space.grid} have {raw:,} points, within the bounds given about "
        f"{points:,} structures to go through: at most {most:,} can be",
        remedy=", ".join(_feasible(space, points, most)),
    )


def _refuse_fine_unit(space: Space) -> None:
    """Raise StructureError for a token exponent whose denominator makes the numbers too large."""
    most = _BASE // (4 * (2 + len(space.classes(space.factors).bonds)))
    if space.tokens is not None and space.unit > most:
        raise StructureError(
            f"τ = {space.tokens} on a grid of 1/{space.grid}: ν is a multiple of 1/{space.unit:,}, "
            f"with {space.factors} factors at most 1/{most:,} can be searched",
            remedy="choose a τ of the grid, or a fraction such as 1/2 or 1/3",
        )


def _feasible(space: Space, points: int, most: int) -> Iterator[str]:
    """Ways to make a space feasible."""
    if most < points <= MAX_PRUNED and space.tokens is None:
        yield "--max-nu '<1' with --min-psi 1 --max-omega 0"
    coarser = (replace(space, grid=grid) for grid in range(space.grid - 1, 0, -1))
    if grid := next((s.grid for s in coarser if s.points(space.factors) <= most), None):
        yield f"--grid {grid}"
    yield "bounds on more carrier sets such as --fix AB=0"
    if points < 2**60:
        yield "--limit 1000 to stop after some"
    yield "--count alone"
    yield "or einsearch sample"
