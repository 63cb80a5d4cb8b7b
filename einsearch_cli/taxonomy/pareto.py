"""What is not beaten in ω, ψ and ν together."""

from __future__ import annotations

from collections.abc import Iterable

Triple = tuple[int, int, int]
"""ω, ψ, ν in a common unit."""


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
