"""Whole spaces at once: the taxonomy as array arithmetic, and the search for survivors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.grammar import (
    Points,
    canonical,
    distinct_count,
    grid_points,
    irreducible,
    raw_count,
    step_masks,
    structures_of,
)
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, carrier_classes
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.criteria import Bounds
from einsearch_cli.taxonomy.exponents import Taxonomy, taxonomy_of

Numerators = NDArray[np.int64]
EVERYTHING = Bounds(min_psi=Fraction(0), max_omega=Fraction(99), max_nu=Fraction(99))


@dataclass(frozen=True, slots=True)
class Space:
    """All structures of up to `factors` factors on a grid of exponents, within bounds."""

    grid: int
    """Exponents are multiples of 1/grid."""
    factors: int = 2
    """Largest number of factors, 1 or 2."""
    bounds: Bounds = field(default=EVERYTHING)
    family: str | None = None
    """Only this family, if given."""


@dataclass(frozen=True, slots=True)
class SpaceCounts:
    """How large a space is."""

    factors: int
    grid: int
    raw: int
    """Grid points."""
    distinct: int
    """Grid points up to renaming of the factors, by Burnside's lemma."""
    irreducible: int
    """Those that need all their factors."""
    survivors: int
    """Irreducible ones within the bounds."""


def taxonomy_of_points(points: Points, factors: int) -> tuple[Numerators, Numerators, Numerators]:
    """ω, ψ and ν of every grid point, in units of 1/grid of the grid they came from.

    The same definitions as `taxonomy_of`: best order, largest factor, smallest cut.
    """
    letters = FACTOR_LETTERS[:factors]
    classes = list(carrier_classes(factors))
    wide = points.astype(np.int64)
    one = wide[:, [("X" in c) for c in classes]].sum(axis=1)
    orders = [step_masks(factors, order) for order in permutations(letters)]
    largest = np.min([np.max([wide[:, mask].sum(axis=1) for mask in masks], axis=0) for masks in orders], axis=0)
    params = np.max([wide[:, [(f in c) for c in classes]].sum(axis=1) for f in letters], axis=0)
    cut_values = []
    for inside in (set(s) | {"X"} for size in range(factors + 1) for s in combinations(letters, size)):
        outside = ({*letters, "Y"}) - inside
        cut_values.append(wide[:, [bool(c & inside and c & outside) for c in classes]].sum(axis=1))
    psi = np.minimum(one, np.min(cut_values, axis=0))
    return largest - params, psi, largest - one


def survivors(space: Space) -> list[Structure]:
    """The structures of a space in normal form, best first: ψ falling, then ω, ν, θ rising.

    Raises:
        StructureError: if the space is too large to enumerate.

    >>> len(survivors(Space(grid=2))), len(survivors(Space(grid=2, bounds=Bounds(max_nu=Fraction(1, 2)))))
    (34, 3)
    """
    found: list[tuple[Taxonomy, Structure]] = []
    for factors in range(1, space.factors + 1):
        points = _surviving_points(factors, space)
        found += [(taxonomy_of(s), s) for s in structures_of(points, factors, space.grid)]
    found.sort(key=lambda pair: (-pair[0].psi, pair[0].omega, pair[0].nu, len(pair[1].factors), str(pair[1])))
    return [s for _, s in found if space.family is None or family_of(s) == space.family]


def count(space: Space) -> SpaceCounts:
    """Sizes of the space with exactly `space.factors` factors."""
    points = grid_points(space.factors, space.grid)
    needed = points[irreducible(points, space.factors)]
    within = _surviving_points(space.factors, space)
    kept = len(within)
    if space.family is not None:
        kept = sum(family_of(s) == space.family for s in structures_of(within, space.factors, space.grid))
    return SpaceCounts(
        factors=space.factors,
        grid=space.grid,
        raw=raw_count(space.factors, space.grid),
        distinct=distinct_count(space.factors, space.grid),
        irreducible=int(canonical(needed, space.factors).sum()),
        survivors=kept,
    )


def _surviving_points(factors: int, space: Space) -> Points:
    points = grid_points(factors, space.grid)
    points = points[irreducible(points, factors)]
    points = points[canonical(points, factors)]
    omega, psi, nu = taxonomy_of_points(points, factors)
    bounds, q = space.bounds, space.grid
    enough_rank = psi >= math.ceil(bounds.min_psi * q)
    return points[enough_rank & (omega <= math.floor(bounds.max_omega * q)) & (nu <= math.floor(bounds.max_nu * q))]
