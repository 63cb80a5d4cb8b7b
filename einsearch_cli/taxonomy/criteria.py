"""The pruning criteria: which structures are worth training.

Potapczynski et al. 2024 keep structures of full rank (ψ = 1) that spend every
FLOP on its own parameter (ω = 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.register import add_once
from einsearch_cli.taxonomy.exponents import Taxonomy


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers that the criteria compare with."""

    min_psi: Fraction = Fraction(1)
    """The smallest rank exponent ψ that is kept."""
    max_omega: Fraction = Fraction(0)
    """The largest parameter sharing ω that is kept."""
    max_nu: Fraction = Fraction(1)
    """The largest compute exponent ν that is kept; a dense layer has 1."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A rule that a structure passes, or fails with a reason."""

    name: str
    reason: Callable[[Taxonomy, Bounds], str | None]
    """The reason to prune a structure; None if it passes."""


CRITERIA: dict[str, Criterion] = {}


def register(criterion: Criterion) -> Criterion:
    """Add a criterion, which verdicts and the command line then use."""
    return add_once("criteria", CRITERIA, criterion.name, criterion)


def _rank(taxonomy: Taxonomy, bounds: Bounds) -> str | None:
    if taxonomy.psi >= bounds.min_psi:
        return None
    return f"rank grows as d^{taxonomy.psi} (ψ < {bounds.min_psi}), limited by the cut {taxonomy.cut}"


def _sharing(taxonomy: Taxonomy, bounds: Bounds) -> str | None:
    if taxonomy.omega <= bounds.max_omega:
        return None
    return f"FLOPs per parameter grow as d^{taxonomy.omega} (ω > {bounds.max_omega}): parameters are shared"


def _compute(taxonomy: Taxonomy, bounds: Bounds) -> str | None:
    if taxonomy.nu <= bounds.max_nu:
        return None
    return f"FLOPs grow as d^{1 + taxonomy.nu} (ν = {taxonomy.nu} > {bounds.max_nu}), dense ones as d^2"


register(Criterion("full-rank", _rank))
register(Criterion("parameters-per-flop", _sharing))
register(Criterion("compute", _compute))


def reasons_against(taxonomy: Taxonomy, bounds: Bounds) -> tuple[str, ...]:
    """The reasons to prune a structure; empty if it is kept."""
    return tuple(reason for c in CRITERIA.values() if (reason := c.reason(taxonomy, bounds)))
