"""The change of a gain with compute."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from einsearch_cli.scaling.gains import log_gain
from einsearch_cli.scaling.noise import Floats, Noise, Part, t_quantile
from einsearch_cli.scaling.surface import Surface
from einsearch_cli.structures.record import Record

TrendWord = Literal["rising", "falling", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungGain(Record):
    """The compute gain at one rung."""

    rung: int
    budget_flops: float
    gain: float
    low: float | None
    high: float | None
    """95% interval; None without two seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend(Record):
    """How the compute gain over the yardstick changes with compute."""

    rungs: tuple[RungGain, ...]
    """The gain at every rung at which it can be read off, the cheapest first."""
    per_decade: float | None
    """Factor by which the gain changes when compute grows tenfold; None with fewer than two rungs."""
    low: float | None
    high: float | None
    """95% interval of `per_decade`; None without two seeds."""
    p_value: float | None
    """Probability of such a slope if the gain does not change with compute."""
    word: TrendWord
    """'rising' or 'falling' if the p value, adjusted for all candidates by Holm's method, is below 5%."""


def trend(structure: Surface, yardstick: Surface, noise: Noise, name: Hashable, yardstick_name: Hashable) -> Trend:
    """The gain at each rung, and its slope over log compute by generalised least squares (Aitken 1935).

    Gains of neighbouring rungs are read off the same curves, so their errors are correlated; the fit of the slope uses
    the covariance of all. Rungs at which a best width was not found are left out. `word` stays 'cannot tell', as it
    depends on the number of candidates.
    """
    bounded = {minimum.level.rung for side in (structure, yardstick) for minimum in side.minima if minimum.reason}
    rungs_of_both = [m.level.rung for m in structure.minima if yardstick.at(m.level.rung) is not None]
    shared = [rung for rung in rungs_of_both if rung not in bounded]
    read = [(rung, log_gain(structure, yardstick, rung=rung)) for rung in shared]
    known = [(rung, gain) for rung, gain in read if gain is not None]
    n = len(structure.minima)

    def parts(weights: Floats) -> tuple[Part, Part]:
        return structure.part(name, weights[:, :n]), yardstick.part(yardstick_name, weights[:, n:])

    rungs = []
    for rung, gain in known:
        half = _half(*parts(gain.gradient[None, :]), noise)
        level = structure.minima[structure.at(rung) or 0].level
        rungs.append(
            RungGain(
                rung=rung,
                budget_flops=level.budget_flops,
                gain=math.exp(gain.value),
                low=scaled(gain.value, -half),
                high=scaled(gain.value, half),
            )
        )
    if len(known) < 2:
        return Trend(rungs=tuple(rungs), per_decade=None, low=None, high=None, p_value=None, word="cannot tell")
    values = np.array([gain.value for _, gain in known])
    decades = np.array([gain.log_compute for _, gain in known]) / math.log(10)
    design = np.stack([np.ones_like(decades), decades - decades.mean()], axis=1)
    jacobian = np.array([gain.gradient for _, gain in known])
    own = jacobian[:, :n] @ structure.covariance @ jacobian[:, :n].T
    other = jacobian[:, n:] @ yardstick.covariance @ jacobian[:, n:].T
    weight = np.linalg.pinv(own + other)
    row = (np.linalg.pinv(design.T @ weight @ design) @ design.T @ weight)[1]
    slope = float(row @ values)
    variance = noise.of_contrasts(*parts((row @ jacobian)[None, :]))
    if variance is None or variance[0][0] <= 0:
        return Trend(
            rungs=tuple(rungs), per_decade=math.exp(slope), low=None, high=None, p_value=None, word="cannot tell"
        )
    from scipy.special import stdtr

    error, degrees = math.sqrt(variance[0][0]), float(variance[1][0])
    half = t_quantile(degrees) * error
    return Trend(
        rungs=tuple(rungs),
        per_decade=math.exp(slope),
        low=scaled(slope, -half),
        high=scaled(slope, half),
        p_value=2 * float(stdtr(degrees, -abs(slope) / error)),
        word="cannot tell",
    )


def _half(first: Part, second: Part, noise: Noise) -> float:
    variance = noise.of_contrasts(first, second)
    return math.nan if variance is None else t_quantile(float(variance[1][0])) * math.sqrt(variance[0][0])


def scaled(log_value: float, shift: float) -> float | None:
    """The exponential of `log_value` + `shift`; None if it is unknown, or too large or too small to mean anything."""
    moved = log_value + shift
    return math.exp(moved) if abs(moved) < 300 else None
