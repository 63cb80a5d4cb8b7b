"""Compute gain: how much less compute a structure needs than the yardstick for the same loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from einsearch_cli.scaling.curves import Cell, Frontier, Level, frontier
from einsearch_cli.scaling.intervals import resamples, t_quantile, weighted_spread

OPEN_END_SHARE = 0.025
"""Share of resamples without overlap from which that end of the interval is left open."""


@dataclass(frozen=True, slots=True)
class ComputeGain:
    """C_yardstick(L) / C_structure(L) at the loss `at_loss`, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    """95% interval; an end is None when it is not known (one seed) or not bounded by the data."""
    at_loss: float | None = None
    at_least: float | None = None
    """The gain is larger than this (measured), though how large is not known."""
    at_most: float | None = None
    """The gain is smaller than this (measured), though how small is not known."""
    reason: str | None = None
    """Why `value` or its interval is missing."""


def gain_between(structure: Frontier, yardstick: Frontier) -> ComputeGain:
    """Compute gain at the lowest loss that both frontiers reach; no interval.

    A structure that ends above the yardstick is read at its own last loss, one that
    ends below it at the yardstick's last loss, so the gain is 1 when both end at the
    same point and nothing is extrapolated. Frontiers without a common loss give no
    value, but a bound that the runs do show.

    >>> dense = frontier([(1e9, 0.4), (1e11, 0.1)])
    >>> gain_between(frontier([(1e9, 0.2), (1e11, 0.05)]), dense).value
    10.0
    >>> gain_between(frontier([(1e9, 0.8)]), dense).reason
    'the yardstick is already better with its smallest budget'
    """
    if not structure.points:
        return ComputeGain(None, reason="no finished run with a positive loss")
    if not yardstick.points:
        return ComputeGain(None, reason="the yardstick has no finished run with a positive loss")
    at_loss = max(structure.lowest_loss, yardstick.lowest_loss)
    spent, yardstick_spent = structure.compute_at(at_loss), yardstick.compute_at(at_loss)
    if spent is not None and yardstick_spent is not None:
        return ComputeGain(yardstick_spent / spent, at_loss=at_loss)
    if structure.highest_loss < yardstick.lowest_loss:
        return ComputeGain(
            None,
            at_least=yardstick.points[-1][0] / structure.points[0][0],
            reason="already better with its smallest budget than the yardstick with its largest",
        )
    return ComputeGain(
        None,
        at_most=yardstick.points[0][0] / structure.points[-1][0],
        reason="the yardstick is already better with its smallest budget",
    )


def compute_gain(structure: Sequence[Level], yardstick: Sequence[Level]) -> ComputeGain:
    """Compute gain of one structure over the yardstick with a 95% interval.

    The point estimate is `gain_between` of the two frontiers, each through the best
    width of every rung (mean over seeds).

    The interval is a paired bootstrap over seeds: the same seeds are drawn for both
    structures and for all rungs, the best widths are chosen anew and both frontiers
    are drawn anew. With a handful of seeds the usual percentile interval is far too
    short (three seeds: 75% at best, the chance that the truth lies between the
    smallest and the largest seed), so the spread of log gain over the resamples is
    widened as for a mean: log gain ± t(n−1) · √(n/(n−1)) · spread. It covers seeds
    (initialisation and data order), the choice of width and the interpolation that
    hangs on them; it does not cover other learning rates, other tasks, or the
    straight lines drawn between budgets. A rung run with none of the drawn seeds
    counts with its mean, as if it were exact.
    """
    gain = gain_between(_frontier(structure), _frontier(yardstick))
    seeds = sorted(_seeds(structure) & _seeds(yardstick))
    if gain.value is None:
        return gain
    if len(seeds) < 2:
        return _with_interval(gain, None, None, "no interval: fewer than two seeds in common with the yardstick")
    logs: list[tuple[float, float]] = []
    above = below = 0.0
    for share, counts in resamples(len(seeds)):
        drawn = {seed: count for seed, count in zip(seeds, counts, strict=True) if count}
        sample = gain_between(_frontier(structure, drawn), _frontier(yardstick, drawn))
        if sample.value is not None:
            logs.append((share, math.log(sample.value)))
        elif sample.at_least is not None:
            above += share
            logs.append((share, math.log(sample.at_least)))
        elif sample.at_most is not None:
            below += share
            logs.append((share, math.log(sample.at_most)))
    n = len(seeds)
    half = t_quantile(n - 1) * math.sqrt(n / (n - 1)) * weighted_spread(logs)
    low = None if below > OPEN_END_SHARE else _scaled(gain.value, -half)
    high = None if above > OPEN_END_SHARE else _scaled(gain.value, half)
    open_end = low is None or high is None
    return _with_interval(gain, low, high, "the interval leaves the losses that both reach" if open_end else None)


def _scaled(value: float, log_factor: float) -> float | None:
    """`value · exp(log_factor)`, or None where that is too large or too small to mean anything."""
    return value * math.exp(log_factor) if abs(log_factor) < 300 else None


def _with_interval(gain: ComputeGain, low: float | None, high: float | None, reason: str | None) -> ComputeGain:
    return ComputeGain(gain.value, low, high, gain.at_loss, reason=reason)


def _seeds(levels: Sequence[Level]) -> set[int]:
    return {seed for level in levels for cell in level.eligible for seed in cell.seeds}


def _frontier(levels: Sequence[Level], drawn: dict[int, int] | None = None) -> Frontier:
    return frontier([_point(level, drawn) for level in levels])


def _point(level: Level, drawn: dict[int, int] | None) -> tuple[float, float]:
    """(C, L) of the best width, under the drawn seeds if given."""
    if drawn is None:
        return level.best.compute, level.best.mean
    means = [(_resampled_mean(cell, drawn), cell.width, cell.compute) for cell in level.eligible]
    loss, _, compute = min(means)
    return compute, loss


def _resampled_mean(cell: Cell, drawn: dict[int, int]) -> float:
    weights = [(drawn.get(seed, 0), loss) for seed, loss in cell.losses]
    total = sum(weight for weight, _ in weights)
    if total == 0:
        return cell.mean
    return math.fsum(weight * loss for weight, loss in weights) / total
