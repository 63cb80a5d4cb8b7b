"""The limits that leave a space without structures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Final

from einsearch_cli.taxonomy.criteria import Bounds
from einsearch_cli.taxonomy.limits import EVERYTHING
from einsearch_cli.taxonomy.space import Space, Triple, search

_MOST_POINTS: Final = 1_000_000
"""The largest space that is searched again with a limit less; of larger ones, the structures of fewer factors are."""


def relaxed_bounds(space: Space) -> dict[str, Fraction]:
    """The bounds without any one of which the space has structures other than dense, with the nearest value that does.

    Keys are the names of `Bounds`. Empty if more than one limit has to go.

    >>> relaxed_bounds(Space(4, bounds=Bounds(max_nu=Fraction(1, 4))))
    {'min_psi': Fraction(1, 2), 'max_nu': Fraction(1, 2)}
    """
    found = {}
    for name, no_bound in (("min_psi", Fraction(0)), ("max_omega", EVERYTHING.max_omega), ("max_nu", Fraction(1))):
        given: Fraction = getattr(space.bounds, name)
        triples = (
            () if given == no_bound else list(_triples(replace(space, bounds=_with(space.bounds, name, no_bound))))
        )
        if triples:
            omegas, psis, nus = zip(*triples, strict=True)
            found[name] = Fraction(
                {"min_psi": max(psis), "max_omega": min(omegas), "max_nu": min(nus)}[name], space.unit
            )
    return found


def has_structures(space: Space) -> bool:
    """Whether a search of the space, or of its part with fewer factors, finds a structure other than dense."""
    return next(_triples(space), None) is not None


def _with(bounds: Bounds, name: str, value: Fraction) -> Bounds:
    return replace(bounds, **{name: value})


def _triples(space: Space) -> Iterator[Triple]:
    """ω, ψ and ν of structures of at least two factors."""
    small = [factors for factors in space.factor_counts if factors > 1 and space.points(factors) <= _MOST_POINTS]
    for factors in small:
        for found in search(replace(space, factors=factors, exactly=True, pareto=False)):
            yield from found.taxonomy()
