"""Compute gain: how much less compute a structure needs than the yardstick for the same loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from einsearch_cli.scaling.surface import Floats, Surface

REACH = 0.5
"""How far beyond the cheapest and the dearest run compute is read off, in log compute: a factor of 1.65."""
_STEP = 1e-5
"""Of the central differences by which gains are differentiated in log losses."""


@dataclass(frozen=True)
class LogGain:
    """log of C_yardstick(L) / C_structure(L) at one loss L, linear in the log losses around the measured ones."""

    value: float
    at_log_loss: float
    gradient: Floats
    """Derivatives in the log losses of the structure's minima, then in those of the yardstick's."""

    def unit_variances(self, structure: Surface, yardstick: Surface) -> tuple[float, float]:
        """What the errors of the structure and of the yardstick add, for a unit variance of one run."""
        n = len(structure.minima)
        own, other = self.gradient[:n], self.gradient[n:]
        return float(own @ structure.covariance @ own), float(other @ yardstick.covariance @ other)


def log_compute_at(log_c: Floats, losses: Floats, target: Floats) -> Floats:
    """log compute at which each row of `losses` reaches its target, on the parabola in log compute through three rungs.

    Symbols: `log_c` (n,) and `losses` (rows, n) at the rungs, `target` (rows,). Three rungs around the first row's
    target carry the parabola, two a straight line, one only itself. Straight lines in (log C, log L) alone would
    assume that the loss falls to 0, and shrink gains to 1 where it does not. NaN where the loss does not fall.
    """
    n = len(log_c)
    if n == 1:
        return np.where(np.abs(losses[:, 0] - target) < 1e-12, log_c[0], np.nan)
    if n > 2:
        at = int(np.clip(np.sum(losses[0] > target[0]), 2, n - 1))  # the first rung below the target
        log_c, losses = log_c[at - 2 : at + 1], losses[:, at - 2 : at + 1]
    x, y = log_c, losses
    last = (y[:, -1] - y[:, -2]) / (x[-1] - x[-2])
    with np.errstate(invalid="ignore", divide="ignore"):
        line = np.where(last < 0, x[-1] + (target - y[:, -1]) / last, np.nan)
        if n == 2:
            return line
        first = (y[:, 1] - y[:, 0]) / (x[1] - x[0])
        bend = (last - first) / (x[2] - x[0])
        slope = last + bend * (x[2] - x[1])  # of the parabola at the last of the three
        root = np.sqrt(slope * slope - 4 * bend * (y[:, 2] - target))
        curve = x[2] + 2 * (y[:, 2] - target) / (root - slope)  # the falling branch, in its stable form
    inside = (curve[0] >= x[0] - REACH) and (curve[0] <= x[2] + REACH)
    return curve if inside and bool(np.all(np.isfinite(curve))) else line


def log_gain(structure: Surface, yardstick: Surface, price: int = 0, rung: int | None = None) -> LogGain | None:
    """The gain at the lowest loss that both reach, or at a rung; None where no compute can be read off.

    At a rung below the last it is read at the lower of the two losses there, so that both lie between measured rungs.
    Compute is read off at most `REACH` beyond what was measured.
    """
    own_c, other_c = structure.log_prices(price), yardstick.log_prices(price)
    if own_c is None or other_c is None:
        return None
    own, other = structure.log_losses, yardstick.log_losses
    i, j = (len(own) - 1, len(other) - 1) if rung is None else (structure.at(rung), yardstick.at(rung))
    if i is None or j is None:
        return None
    n, m = len(own), len(other)
    losses = np.concatenate([own, other]) + np.concatenate(
        [np.zeros((1, n + m)), _STEP * np.eye(n + m), -_STEP * np.eye(n + m)]
    )
    lower = rung is not None and i + 1 < n and j + 1 < m
    target = (np.minimum if lower else np.maximum)(losses[:, i], losses[:, n + j])
    spent = log_compute_at(own_c, losses[:, :n], target)
    yardstick_spent = log_compute_at(other_c, losses[:, n:], target)
    if not (_is_within(own_c, spent[0]) and _is_within(other_c, yardstick_spent[0])):
        return None
    gains = yardstick_spent - spent
    gradient = (gains[1 : n + m + 1] - gains[n + m + 1 :]) / (2 * _STEP)
    return LogGain(float(gains[0]), float(target[0]), gradient) if np.all(np.isfinite(gradient)) else None


def _is_within(log_c: Floats, at: float) -> bool:
    return math.isfinite(at) and log_c[0] - REACH <= at <= log_c[-1] + REACH
