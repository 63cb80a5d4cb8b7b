"""From an estimate and a claim to a verdict, by one rule; p values and intervals that agree with each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from einsearch_cli.scaling.noise import CONFIDENCE, Floats, t_quantile

Verdict = Literal["holds", "does not hold", "cannot tell"]
LEVEL = round(1 - CONFIDENCE, 9)


class Estimate(Protocol):
    """A number with its 95% interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def how(self) -> str:
        """Where the interval comes from, in words."""

    def p_above(self, bound: float) -> float:
        """One-sided p of the hypothesis that the truth is not above the bound."""

    def p_below(self, bound: float) -> float:
        """One-sided p of the hypothesis that the truth is not below the bound."""


@dataclass(frozen=True)
class StudentEstimate:
    """An estimate whose error is Student's t.

    >>> found = StudentEstimate(1.0, 0.5, 2, "three seeds")
    >>> round(found.low, 2), round(found.high, 2), round(found.p_above(0.0), 3)
    (-1.15, 3.15, 0.092)
    """

    value: float
    error: float
    """Standard error."""
    degrees: float
    how: str

    @property
    def low(self) -> float:
        return self.value - t_quantile(self.degrees) * self.error

    @property
    def high(self) -> float:
        return self.value + t_quantile(self.degrees) * self.error

    def p_above(self, bound: float) -> float:
        from scipy.special import stdtr

        return float(stdtr(self.degrees, -self._t(bound)))

    def p_below(self, bound: float) -> float:
        from scipy.special import stdtr

        return float(stdtr(self.degrees, self._t(bound)))

    def _t(self, bound: float) -> float:
        apart = self.value - bound
        return apart / self.error if self.error > 0 else math.copysign(math.inf, apart)


@dataclass(frozen=True)
class DrawnEstimate:
    """An estimate with bootstrap draws: a percentile interval (Efron 1979)."""

    value: float
    draws: Floats
    how: str
    p_zero: float | None = None
    """Two-sided p of a permutation test against 0, which replaces that of the draws."""

    @property
    def low(self) -> float:
        return float(np.quantile(self.draws, LEVEL / 2))

    @property
    def high(self) -> float:
        return float(np.quantile(self.draws, 1 - LEVEL / 2))

    def p_above(self, bound: float) -> float:
        return self._p(float(np.sum(self.draws <= bound)), self.value > 0, bound)

    def p_below(self, bound: float) -> float:
        return self._p(float(np.sum(self.draws >= bound)), self.value < 0, bound)

    def _p(self, contrary: float, agrees: bool, bound: float) -> float:
        if bound == 0 and self.p_zero is not None:
            return self.p_zero / 2 if agrees else 1 - self.p_zero / 2
        return (1 + contrary) / (1 + len(self.draws))


@dataclass(frozen=True)
class Claim:
    """A paper's claim about an effect: above 0, below 0, or within a margin of 0."""

    kind: Literal["above", "below", "within"]
    margin: float = 0.0

    def p(self, found: Estimate) -> float:
        """Two-sided p: twice the smaller one of the claim's and of its contrary's.

        For 'within' the p of the claim is that of two one-sided tests (Schuirmann 1987).

        >>> round(Claim("above").p(StudentEstimate(1.0, 0.5, 2, "")), 3)
        0.184
        >>> round(Claim("within", 0.5).p(StudentEstimate(0.0, 0.1, 20, "")), 6)
        6.9e-05
        """
        m = self.margin
        if self.kind == "within":
            sides = max(found.p_above(-m), found.p_below(m)), found.p_above(m), found.p_below(-m)
        else:
            sides = found.p_above(0.0), found.p_below(0.0), 1.0
        return min(1.0, 2 * min(sides))

    def verdict(self, found: Estimate, p_adjusted: float) -> Verdict:
        """'holds' or 'does not hold' where the whole interval and the adjusted p say so, else 'cannot tell'."""
        if p_adjusted >= LEVEL:
            return "cannot tell"
        agrees, refutes = {
            "above": (found.low > 0, found.high < 0),
            "below": (found.high < 0, found.low > 0),
            "within": (
                -self.margin < found.low and found.high < self.margin,
                found.low > self.margin or found.high < -self.margin,
            ),
        }[self.kind]
        return "holds" if agrees else "does not hold" if refutes else "cannot tell"


def of_replicates(values: Sequence[float], what: str) -> StudentEstimate:
    """The mean of independent replicates, with Student's t.

    Raises:
        ValueError: fewer than two.

    >>> of_replicates([1.0, 2.0, 3.0], "seeds").how
    '3 seeds, t with 2 degrees of freedom'
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} {what}: an interval needs two")
    error = statistics.stdev(values) / math.sqrt(n)
    return StudentEstimate(
        statistics.fmean(values), error, n - 1, f"{n} {what}, t with {n - 1} degree{'s' * (n > 2)} of freedom"
    )


def of_units(by_seed: Sequence[Sequence[float]], units: str) -> StudentEstimate | None:
    """The mean over seeds of the mean over units, such as structures: t over the seeds, or over the units of one seed.

    None where there is neither a second seed nor a second unit.
    """
    seeds = [list(values) for values in by_seed if values]
    if len(seeds) > 1:
        return of_replicates([statistics.fmean(values) for values in seeds], "seeds")
    if len(seeds) == 1 and len(seeds[0]) > 1:
        return of_replicates(seeds[0], f"{units} of one seed")
    return None


def of_slope(
    x: Sequence[float], y: Sequence[float], what: str, held: Sequence[Sequence[float]] = ()
) -> StudentEstimate:
    """The slope over x by least squares, with the other variables held."""
    columns = np.stack([np.ones(len(x)), *(np.asarray(other, float) for other in held), np.asarray(x, float)], axis=1)
    b, degrees = np.asarray(y, float), len(x) - columns.shape[1]
    if degrees < 1 or np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise ValueError(
            f"{len(x)} {what}: a slope with an interval needs more of them than variables, all independent"
        )
    fitted = np.linalg.lstsq(columns, b, rcond=None)[0]
    left = b - columns @ fitted
    error = math.sqrt(float(left @ left) / degrees * float(np.linalg.inv(columns.T @ columns)[-1, -1]))
    named = f"{len(x)} {what}, t with {degrees} degree{'s' * (degrees > 1)} of freedom"
    return StudentEstimate(float(fitted[-1]), error, degrees, named)
