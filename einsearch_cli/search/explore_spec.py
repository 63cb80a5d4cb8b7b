"""Settings of a search in the continuous space of structures."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from einsearch_cli.errors import near_or_all
from einsearch_cli.search.bound import Bound, LeastPsi
from einsearch_cli.settings import RuleError, Settings, Whole
from einsearch_cli.taxonomy import Bounds

SAMPLERS: Final = ("tpe", "cma-es", "random")
NAMED: Final = ("monarch", "btt:r=d^1/4", "tt:r=d^1/4", "kronecker", "low-rank")
"""Families with which a search begins if a study names no candidates."""
EXPLORING_SEED: Final = 2000
"""First seed of the runs that only search; seeds of rankings and confirmations stay below it."""
LEAST_RUNS: Final = 10


def _check_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise RuleError(f"one of {', '.join(SAMPLERS)} is needed", remedy=near_or_all(name, SAMPLERS))
    return name


class ExploreSpec(Settings):
    """A search for candidates among structures with any exponents, on the cheapest rung."""

    factors: Whole = Field(default=2, ge=1, le=4)
    """Largest number of factors."""
    runs: Whole = Field(default=60, ge=LEAST_RUNS, le=100_000)
    """Runs of the cheapest rung that the search may take, including repetitions of the best with other seeds."""
    sampler: Annotated[str, AfterValidator(_check_sampler)] = "tpe"
    """The sampler that proposes exponents: tpe, cma-es or random, from Optuna."""
    finalists: Whole = Field(default=3, ge=1, le=50)
    """Number of the best structures found that are ranked with the others."""
    batch: Whole = Field(default=4, ge=1, le=1000)
    """Structures that are proposed at once, so that workers train them in parallel."""
    min_psi: LeastPsi = "1"
    """Smallest rank exponent ψ."""
    max_omega: Bound = "0"
    """Largest parameter sharing ω."""
    max_nu: Bound = "1"
    """Largest compute exponent ν."""

    @property
    def bounds(self) -> Bounds:
        """The numbers that the pruning criteria compare with."""
        return Bounds(*map(Fraction, (self.min_psi, self.max_omega, self.max_nu)))

    @property
    def repeats(self) -> int:
        """Runs that are kept for training the best with other seeds: a fifth."""
        return self.runs // 5
