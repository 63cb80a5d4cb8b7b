"""Compute gain: how much less compute a structure needs than the yardstick for the same loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from einsearch_cli.scaling.noise import Floats
from einsearch_cli.scaling.surface import Surface

REACH = 0.5
"""How far below the cheapest run compute is extrapolated, in log compute: a factor of 1.65."""
_STEP = 1e-5
"""Step of the central differences for derivatives of gains with respect to log losses."""


@dataclass(frozen=True)
class LogGain:
    """Logarithm of C_yardstick(L) / C_structure(L) at one loss L, linearised in the measured log losses."""

    value: float
    at_log_loss: float
    log_compute: float
    """Log of the structure's compute at that loss."""
    gradient: Floats
    """Derivatives with respect to the log losses of the structure's minima, then the yardstick's."""


def log_compute_at(log_c: Floats, losses: Floats, target: Floats) -> Floats:
    """Log compute at which each row of `losses` reaches its target, by a parabola in log compute through three rungs.

    Symbols: `log_c` (n,) and `losses` (rows, n) at the rungs, `target` (rows,). The parabola goes through the three
    rungs around the first row's target; two rungs give a straight line, one only itself. Straight lines in (log C, log
    L) would assume that the loss falls to 0, and shrink gains to 1 where it does not. The result is NaN where the loss
    does not fall.
    """
    n = len(log_c)
    if n == 1:
        return np.where(np.abs(losses[:, 0] - target) < 1e-12, log_c[0], np.nan)
    if n > 2:
        at = int(np.clip(np.sum(losses[0] > target[0]), 2, n - 1))  # number of the first rung below the target
        log_c, losses = log_c[at - 2 : at + 1], losses[:, at - 2 : at + 1]
    x, y = log_c, losses
    last = (y[:, -1] - y[:, -2]) / (x[-1] - x[-2])
    with np.errstate(invalid="ignore", divide="ignore"):
        line = np.where(last < 0, x[-1] + (target - y[:, -1]) / last, np.nan)
        if n == 2:
            return line
        first = (y[:, 1] - y[:, 0]) / (x[1] - x[0])
        bend = (last - first) / (x[2] - x[0])
        slope = last + bend * (x[2] - x[1])  # slope of the parabola at the last of the three
        root = np.sqrt(slope * slope - 4 * bend * (y[:, 2] - target))
        curve = x[2] + 2 * (y[:, 2] - target) / (root - slope)  # the falling branch, in its numerically stable form
    inside = (curve[0] >= x[0] - REACH) and (curve[0] <= x[2] + REACH)
    return curve if inside and bool(np.all(np.isfinite(curve))) else line


def log_gain(structure: Surface, yardstick: Surface, price: int = 0, rung: int | None = None) -> LogGain | None:
    """The gain at the lowest loss that both reach, or at a rung; None if no compute can be read off.

    At a rung below the last it is read at the lower of the two losses there, so that both lie between measured rungs.
    """
    own_c, other_c = structure.log_prices(price), yardstick.log_prices(price)
    if own_c is None or other_c is None:
        return None
    own, other = structure.log_losses, yardstick.log_losses
    i, j = (len(own) - 1, len(other) - 1) if rung is None else (structure.at(rung), yardstick.at(rung))
    if i is None or j is None:
        return None
    n, m = len(own), len(other)
    steps = np.concatenate([np.zeros((1, n + m)), _STEP * np.eye(n + m), -_STEP * np.eye(n + m)])
    losses = np.concatenate([own, other]) + steps
    lower = rung is not None and i + 1 < n and j + 1 < m
    target = (np.minimum if lower else np.maximum)(losses[:, i], losses[:, n + j])
    spent = log_compute_at(own_c, losses[:, :n], target)
    yardstick_spent = log_compute_at(other_c, losses[:, n:], target)
    if not (_is_within(own_c, spent[0]) and _is_within(other_c, yardstick_spent[0])):
        return None
    gains = yardstick_spent - spent
    gradient = (gains[1 : n + m + 1] - gains[n + m + 1 :]) / (2 * _STEP)
    if not np.all(np.isfinite(gradient)):
        return None
    return LogGain(float(gains[0]), float(target[0]), float(spent[0]), gradient)


def _is_within(log_c: Floats, at: float) -> bool:
    return math.isfinite(at) and log_c[0] - REACH <= at <= log_c[-1] + REACH


@dataclass(frozen=True)
class GainTests:
    """Contrasts of log losses that are 0 if log gain has a given value, for a grid of values.

    A gain is a difference of losses divided by a slope, and its errors are not symmetric if the slope is small. So
    intervals follow Fieller (1954): they contain the gains whose contrast does not differ from 0.
    """

    gains: Floats
    """Values of log gain, rising."""
    weights: Floats
    """Weights (gains, minima) of the structure's log losses, then of the yardstick's."""

    def interval(self, losses: Floats, halves: Floats, around: float) -> tuple[float, float]:
        """The accepted gains around an estimate; an end is infinite if all gains on its side are accepted.

        `halves` is how far each contrast may be from 0.
        """
        over = np.abs(self.weights @ losses) - halves
        centre = int(np.clip(np.searchsorted(self.gains, around), 1, len(self.gains) - 1))
        below = np.flatnonzero(over[:centre] > 0)
        above = np.flatnonzero(over[centre:] > 0)
        low = -math.inf if len(below) == 0 else self._crossing(over, int(below[-1]), min(int(below[-1]) + 1, centre))
        first = centre + int(above[0]) if len(above) else -1
        high = math.inf if first < 0 else self._crossing(over, max(first - 1, 0), first)
        return min(low, around), max(high, around)

    def _crossing(self, over: Floats, left: int, right: int) -> float:
        a, b = over[left], over[right]
        share = 0.5 if a == b else float(np.clip(a / (a - b), 0, 1))
        return float(self.gains[left] + share * (self.gains[right] - self.gains[left]))


def gain_tests(structure: Surface, yardstick: Surface, price: int = 0) -> GainTests | None:
    """Contrasts for every gain on which the runs give information.

    A gain larger than the one at which the ends of the two curves coincide is tested by the yardstick's last loss,
    which the structure should have reached at compute / gain. A smaller gain is tested the other way round.
    """
    own_c, other_c = structure.log_prices(price), yardstick.log_prices(price)
    if own_c is None or other_c is None:
        return None
    # Under a gain g, the structure reaches a loss at compute C / g that the yardstick reaches at C. So the contrast is zero:
    # the yardstick's last loss, less the structure's loss read at x = log(C / g). The grid of x, 161 points along one curve,
    # gives the gains; the second part exchanges the roles of the two curves.
    n, m = len(own_c), len(other_c)
    grids = []
    if n > 1:
        x = np.linspace(own_c[-1], own_c[0] - REACH, 161)
        rows = np.zeros((len(x), n + m))
        rows[:, :n], rows[:, -1] = -_interpolation(own_c, x), 1.0
        grids.append((other_c[-1] - x, rows))
    if m > 1:
        x = np.linspace(other_c[0] - REACH, other_c[-1], 161)
        rows = np.zeros((len(x), n + m))
        rows[:, n:], rows[:, n - 1] = _interpolation(other_c, x), -1.0
        grids.insert(0, (x - own_c[-1], rows))
    if not grids:
        return None
    gains = np.concatenate([gain for gain, _ in grids])
    return GainTests(gains, np.concatenate([rows for _, rows in grids]))


def _interpolation(log_c: Floats, x: Floats) -> Floats:
    """Weights of the rungs by which a curve is read at `x`: Lagrange's on the three rungs around it, or on both rungs."""
    n = len(log_c)
    weights = np.zeros((len(x), n))
    if n == 2:
        weights[:, 1] = (x - log_c[0]) / (log_c[1] - log_c[0])
        weights[:, 0] = 1 - weights[:, 1]
        return weights
    last = np.clip(np.searchsorted(log_c, x), 2, n - 1)
    rows = np.arange(len(x))
    a, b, c = log_c[last - 2], log_c[last - 1], log_c[last]
    weights[rows, last - 2] = (x - b) * (x - c) / ((a - b) * (a - c))
    weights[rows, last - 1] = (x - a) * (x - c) / ((b - a) * (b - c))
    weights[rows, last] = (x - a) * (x - b) / ((c - a) * (c - b))
    return weights
