"""Structures drawn from the continuous space: uniform on the simplices of exponents.

Exponents are multiples of 1/720,720, the least common multiple of 1 to 16: fine
enough to be continuous, exact, and able to hold the fractions that people fix.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.grid import Numbers
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.normal_form import text_of_carriers
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.limits import Limits
from einsearch_cli.taxonomy.linear_forms import taxonomy_of_points
from einsearch_cli.taxonomy.partial import needs_met
from einsearch_cli.taxonomy.space import Space, Triple, pareto_front

UNIT = 720_720
MAX_UNIT = 2**48
MAX_DRAWS = 3_000_000
"""The most points that are drawn before giving up."""
_CHUNK = 20_000

# Points in this file: one per row, whole numbers of 1/720,720, columns in the order of the θ vector.


@dataclass(frozen=True, slots=True)
class Drawn:
    """A structure with ω, ψ and ν in the unit of its space."""

    structure: Structure
    place: Triple


def sample(space: Space, number: int, seed: int) -> list[Drawn]:
    """Draw structures that need all their factors and are within the bounds.

    The space is that of the finest grid, 1/`UNIT`; `pareto` keeps the structures that no other one drawn beats. Input
    exponents are uniform on their simplex, output exponents on theirs, and bonds on [0, 1]; exponents fixed to a number
    are taken out first. The same seed gives the same structures.

    Raises:
        StructureError: if too few of the structures drawn are within the bounds, or τ has too many digits.

    >>> [str(drawn.structure) for drawn in sample(Space(UNIT, factors=1), 2, seed=0)]
    ['XA^1 YA^1', 'XA^1 YA^1']
    """
    if space.unit > MAX_UNIT:
        raise StructureError(
            f"τ = {space.tokens}: ν of exponents in multiples of 1/{UNIT:,} is one of 1/{space.unit:,}, "
            f"at most 1/{MAX_UNIT:,} can be counted in",
            remedy="choose a fraction such as 1/2 or 1/17",
        )
    if space.bounds.max_omega <= 0 and space.factors > 1 and not space.ranges and space.tokens is None:
        raise _too_few(space, number, 0, 0)
    classes, limits = space.classes(space.factors), space.limits(space.factors)
    random = np.random.default_rng(seed)
    found: list[Drawn] = []
    drawn = 0
    while limits is not None and len(found) < number and drawn < MAX_DRAWS:
        points = _draw(classes, limits, random)
        if not len(points):
            break
        drawn += _CHUNK
        found += _kept(points, classes, limits, space, number - len(found))
    if len(found) < number:
        raise _too_few(space, number, len(found), drawn)
    if space.pareto:
        best = pareto_front(item.place for item in found)
        found = [item for item in found if item.place in best]
    return found


def _draw(classes: IndexClasses, limits: Limits, random: np.random.Generator) -> Numbers:
    """Points that are uniform on the simplices; only fixed exponents keep their limits."""
    columns = len(classes.carriers)
    low = np.array(limits.lowest or (0,) * columns)
    high = np.array(limits.highest or (UNIT,) * columns)
    points = np.broadcast_to(low, (_CHUNK, columns)).copy()
    first = len(classes.shared) + len(classes.sides)
    last = first + len(classes.sides)
    inputs, outputs = np.arange(first), np.arange(first, last)
    fits = _fill(points, inputs[(low < high)[inputs]], inputs, np.full(_CHUNK, UNIT), random)
    left = points[:, len(classes.shared) : first].sum(axis=1)
    fits &= _fill(points, outputs[(low < high)[outputs]], outputs, left, random)
    points[:, last:] = random.integers(low[last:], high[last:] + 1, size=(_CHUNK, columns - last))
    return points[fits]


def _fill(
    points: Numbers, free: Numbers, side: Numbers, totals: Numbers, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Share uniformly among the free exponents what the fixed ones of a side leave, where that is possible.

    Every free exponent gets something: faces of the simplex have no volume, so
    all classes are live unless they are fixed to 0. Bars at different places
    between 0 and the rest cut it into the free parts.
    """
    points[:, free] = 0
    rest = totals - points[:, side].sum(axis=1)
    if not len(free):
        return np.asarray(rest == 0)
    bars = np.sort(random.integers(1, np.maximum(rest, 2)[:, None], size=(len(points), len(free) - 1)), axis=1)
    edges = np.concatenate([np.zeros((len(points), 1), dtype=np.int64), bars, rest[:, None]], axis=1)
    points[:, free] = np.diff(edges, axis=1)
    return np.asarray((points[:, free] > 0).all(axis=1))


def _kept(points: Numbers, classes: IndexClasses, limits: Limits, space: Space, number: int) -> list[Drawn]:
    points = points[limits.hold(points)]
    masks = tuple(mask for group in classes.groups for mask in group)
    points = points[needs_met(classes, points, masks) == (1 << len(classes.needs)) - 1]
    omega, psi, nu = taxonomy_of_points(points, classes, UNIT, space.tokens)
    within = np.flatnonzero((psi >= limits.min_psi) & (omega <= limits.max_omega) & (nu <= limits.max_nu))
    kept: list[Drawn] = []
    for row in within.tolist():
        structure = _structure(points[row], classes)
        if space.ranges and not _is_named_so(structure, points[row], classes):
            continue
        if space.family is None or family_of(structure) == space.family:
            kept.append(Drawn(structure, (int(omega[row]), int(psi[row]), int(nu[row]))))
            if len(kept) == number:
                break
    return kept


def _structure(point: NDArray[Any], classes: IndexClasses) -> Structure:
    extents = {
        text_of_carriers(carriers): Extent.power(Fraction(n, UNIT))
        for carriers, n in zip(classes.carriers, point.tolist(), strict=True)
        if n
    }
    return Structure.of(extents, block_diagonal=classes.block_diagonal)


def _is_named_so(structure: Structure, point: NDArray[Any], classes: IndexClasses) -> bool:
    """Whether the point is its own normal form, so that bounds on carrier sets hold for the printed structure."""
    exponents = structure.exponents
    return all(exponents.get(c, 0) == Fraction(n, UNIT) for c, n in zip(classes.carriers, point.tolist(), strict=True))


def _too_few(space: Space, number: int, found: int, drawn: int) -> StructureError:
    if drawn:
        problem = f"{found} of {number} structures found in {drawn:,} draws"
    elif space.ranges:
        problem = "no structure is within the bounds on carrier sets: those of X and of Y must be able to sum to 1"
    else:
        problem = "a random structure carries an index of every class, so that ω > 0: none has ω = 0"
    return StructureError(
        problem,
        remedy="empty some index classes, as in --fix XB=0 --fix YA=0, widen the other bounds, "
        "or go through a grid with einsearch enumerate",
    )
