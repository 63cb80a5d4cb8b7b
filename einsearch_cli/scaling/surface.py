"""Loss over width at every rung: the place and value of its minimum, and their errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from einsearch_cli.scaling.noise import Floats, Part, Variance
from einsearch_cli.scaling.observations import Cell, Level
from einsearch_cli.scaling.parabola import Edge

LEAST_CURVATURE = 0.05
"""The smallest curvature of log loss in log width that is believed; measured values are 0.22 to 0.32."""
WIDEST_STEP = 2.1
"""The largest factor between neighbouring widths that can show how low the loss is between them."""

MISFIT = 1e-3
"""The p of the test of fit below which losses over width do not follow the parabola."""

LEAST_DROP = 0.1
"""The least fall of log loss from the first to the last rung for which slopes over compute are believed."""
CHOSEN = 1.1
"""Factor on variances if pilot runs chose the widths.

The chosen pilots are the first seed, and no residual contains the luck of the choice. In simulated studies, intervals
cover 95% with this factor, 93% without it, and 90% if the other pilot runs are fitted too.
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """Logarithm of the seconds per training FLOP."""

    log_seconds: float
    error: float | None
    """Standard error for a unit variance of one run, from that of the best width; None if unknown."""


@dataclass(frozen=True)
class Minimum:
    """The lowest log loss over widths at one rung."""

    level: Level
    log_loss: float
    width: float
    """The best width as a real number; that of the best cell without a parabola."""
    width_error: float | None
    """Standard error of log width for a unit variance of one run; None without a parabola."""
    curvature: float | None
    """Curvature of log loss in log width at this rung; None without a parabola."""
    edge: Edge | None
    """The end of the tried widths at which the best one lies, so that a better one may lie beyond."""
    reason: str | None
    """Why the loss at the best width has only an upper bound; None if it is known."""
    log_prices: tuple[float, float]
    """Logarithms of FLOPs and total FLOPs of a run at the best width."""
    pace: Pace | None = None
    """Seconds per FLOP at the best width; None if steps were not timed at all widths around it."""
    misfit: float = 0.0
    """Squared distances of mean log losses from the parabola, each times its seeds, summed; 0 without a parabola."""

    def follows_parabola(self, variance: Variance | None) -> bool:
        """Whether the distances from the parabola are within the noise of runs; True if the noise is not known.

        All rungs share a curvature, so of the three means of a rung at most one degree of freedom is left.
        """
        if variance is None or variance.value <= 0:
            return True
        from scipy.special import stdtr  # takes 0.3 s to import

        return 2 * float(stdtr(variance.degrees, -math.sqrt(self.misfit / variance.value))) >= MISFIT

    @property
    def best(self) -> Cell:
        return self.level.best

    @property
    def loss(self) -> float:
        """The lowest loss over widths."""
        return math.exp(self.log_loss)


@dataclass(frozen=True)
class Surface:
    """The minima of one structure at all its rungs."""

    minima: tuple[Minimum, ...]
    """Minima at all rungs, the cheapest first."""
    covariance: Floats
    """Covariance of the log losses of the minima, for a unit variance of one run."""
    curvature: float | None
    """Mean curvature of log loss in log width over the rungs; None if no rung has three widths."""

    @property
    def log_losses(self) -> Floats:
        return np.array([minimum.log_loss for minimum in self.minima])

    def log_prices(self, price: int) -> Floats | None:
        """Logarithm of one price at every rung; None if it does not rise."""
        values = np.array([minimum.log_prices[price] for minimum in self.minima])
        return values if np.all(np.diff(values) > 0) else None

    def pace_at(self, log_compute: float) -> Pace | None:
        """The pace at the best width for a compute, on a straight line in log compute through all rungs."""
        paces = [minimum.pace for minimum in self.minima]
        known = [pace for pace in paces if pace is not None]
        if len(known) < len(paces):
            return None
        x = np.array([minimum.log_prices[0] for minimum in self.minima])
        line = np.linalg.pinv(np.stack([np.ones_like(x), x - x.mean()][: len(x)], axis=1))
        row = np.array([1.0, log_compute - x.mean()][: len(x)]) @ line
        errors = [pace.error for pace in known if pace.error is not None]
        error = float(np.linalg.norm(row * np.array(errors))) if len(errors) == len(known) else None
        return Pace(float(row @ np.array([pace.log_seconds for pace in known])), error)

    def part(self, structure: Hashable, weights: Floats) -> Part:
        """This structure's contribution to contrasts, by its name and the weights of its minima."""
        rungs = tuple(minimum.level.rung for minimum in self.minima)
        seeds = tuple(len(minimum.best.runs) for minimum in self.minima)
        return Part(structure, weights, self.covariance, rungs, seeds)

    def at(self, rung: int) -> int | None:
        """The position of a rung among the minima."""
        return next((i for i, minimum in enumerate(self.minima) if minimum.level.rung == rung), None)


def surface(levels: Sequence[Level]) -> Surface:
    """Fit one parabola in log width per rung to the mean log losses; the curvatures share one unknown.

    In simulations, one unknown for all rungs costs no coverage, and three widths determine the minimum as well as many.
    The variance of a minimum is that of the fit at its place (the delta method: the derivative in the place is 0
    there). Rungs at which the best width is not an optimum keep the loss of their best cell.
    """
    windows = [_window(level) for level in levels]
    fitted = [i for i, window in enumerate(windows) if window.problem is None]
    covariance = np.diag([1.0 / len(level.best.runs) for level in levels])
    minima = [_measured(level, window) for level, window in zip(levels, windows, strict=True)]
    if not fitted:
        return Surface(tuple(minima), covariance, None)
    chosen = [windows[i] for i in fitted]
    bends = _bends(chosen, _fit(chosen, np.ones(len(chosen))))
    fit = _fit(chosen, bends)
    for i, window, x, row, bend, misfit in zip(fitted, chosen, fit.x, fit.places, bends, fit.misfits, strict=True):
        error = fit.place_error(x, row, bend)
        minima[i] = Minimum(
            level=levels[i],
            log_loss=float(row @ fit.beta),
            width=math.exp(window.centre + x),
            width_error=error,
            curvature=bend * float(fit.beta[-1]),
            edge=None,
            reason=None,
            log_prices=_prices(window.cells, window.centre + x),
            pace=_pace(window.cells, window.centre + x, error),
            misfit=misfit,
        )
    covariance[np.ix_(fitted, fitted)] = fit.places @ fit.inverse @ fit.places.T
    if any(level.pilots for level in levels):
        covariance *= CHOSEN
    return Surface(tuple(minima), covariance, float(fit.beta[-1]))


@dataclass(frozen=True)
class _Fit:
    """Parabolas of n rungs: log loss = level + tilt x + curvature · bend x², with n levels, n tilts and one curvature."""

    beta: Floats
    inverse: Floats
    """Covariance of `beta` for a unit variance of one run."""
    x: tuple[float, ...]
    """Place of each minimum, as log width from the centre of its window."""
    places: Floats
    """Array (n, parameters): the derivatives of each minimum's log loss."""
    misfits: tuple[float, ...]
    """Weighted sum of squared residuals of each rung."""

    def place_error(self, x: float, row: Floats, bend: float) -> float:
        """Standard error of the place of a minimum, for a unit variance of one run."""
        n = len(self.x)
        slope = np.zeros(2 * n + 1)
        slope[n : 2 * n], slope[-1] = row[:n], 2 * bend * x
        return math.sqrt(slope @ self.inverse @ slope) / (2 * bend * max(float(self.beta[-1]), LEAST_CURVATURE))


def _fit(windows: Sequence[_Window], bends: Floats) -> _Fit:
    """Weighted least squares, with the number of seeds as the weight of each cell."""
    n = len(windows)
    cells = [(r, x, cell) for r, window in enumerate(windows) for x, cell in zip(window.x, window.cells, strict=True)]
    design = np.zeros((len(cells), 2 * n + 1))
    for k, (r, x, _) in enumerate(cells):
        design[k, r], design[k, n + r], design[k, -1] = 1.0, x, bends[r] * x * x
    weight = np.array([float(len(cell.runs)) for _, _, cell in cells])
    inverse = np.linalg.inv(design.T @ (design * weight[:, None]))
    means = np.array([cell.log_mean for _, _, cell in cells])
    beta = inverse @ (design.T @ (weight * means))
    squares = weight * (means - design @ beta) ** 2
    curvature = max(float(beta[-1]), LEAST_CURVATURE)
    places = np.zeros((n, 2 * n + 1))
    found = []
    for r, window in enumerate(windows):
        x = min(max(-float(beta[n + r]) / (2 * curvature * bends[r]), window.x[0]), window.x[-1])
        places[r, r], places[r, n + r], places[r, -1] = 1.0, x, bends[r] * x * x
        found.append(x)
    misfits = tuple(float(sum(squares[k] for k, (of, _, _) in enumerate(cells) if of == r)) for r in range(n))
    return _Fit(beta, inverse, tuple(found), places, misfits)


def _bends(windows: Sequence[_Window], fit: _Fit) -> Floats:
    """Curvature of each rung as a multiple of their mean.

    A wrong width multiplies the reducible part of the loss by a factor, and compute lowers the same part. So where the
    loss nears a floor, the curvature in log width shrinks like the slope in log compute. One constant curvature would
    bias gains by 1% if half of the loss is irreducible.
    """
    y = fit.places @ fit.beta
    if len(windows) < 3 or y[0] - y[-1] < LEAST_DROP:
        return np.ones(len(windows))
    x = np.array([math.log(window.cells[0].compute) for window in windows])
    slopes = np.polyval(np.polyder(np.polyfit(x - x.mean(), y, 2)), x - x.mean())
    bends: Floats = np.clip(slopes / slopes.mean(), 0.4, 2.5)
    return bends


@dataclass(frozen=True)
class _Window:
    """The three cells around the best one, by log width from `centre`."""

    cells: tuple[Cell, ...]
    centre: float
    x: tuple[float, ...]
    edge: Edge | None = None
    problem: str | None = None


def too_few(widths: Sequence[int]) -> str | None:
    """Why so few widths cannot show where the loss is lowest, so that no verdict is possible; None if they can.

    >>> too_few([16])
    '1 width: at least three show where the loss is lowest'
    >>> too_few([16, 24, 32])
    """
    if len(widths) >= 3:
        return None
    return f"{len(widths)} width{'s' * (len(widths) > 1)}: at least three show where the loss is lowest"


def _window(level: Level) -> _Window:
    cells, best = level.eligible, level.best
    at = cells.index(best)
    low, high = level.widths[0], level.widths[-1]
    edge: Edge | None = None
    problem = too_few(level.widths)
    if problem is not None:
        edge = "high" if best.width == high else "low"
    elif best.width in (low, high):
        edge = "low" if best.width == low else "high"
        problem = f"the best width, {best.width}, is the {_ENDS[edge]} that was tried"
    elif len(cells) < 3:
        problem = "fewer than three widths have all seeds"
    if problem is not None:
        return _Window((best,), math.log(best.width), (0.0,), edge, problem)
    centre = min(max(at, 1), len(cells) - 2)
    chosen = cells[centre - 1 : centre + 2]
    logs = [math.log(cell.width) for cell in chosen]
    gap = max(logs[1] - logs[0], logs[2] - logs[1])
    if gap > math.log(WIDEST_STEP):
        problem = f"widths a factor {math.exp(gap):.2g} apart do not show how low the loss is between them"
    return _Window(chosen, logs[1], tuple(value - logs[1] for value in logs), None, problem)


_ENDS = {"low": "narrowest", "high": "widest"}


def _measured(level: Level, window: _Window) -> Minimum:
    """The best cell as measured."""
    best = level.best
    return Minimum(
        level=level,
        log_loss=best.log_mean,
        width=float(best.width),
        width_error=None,
        curvature=None,
        edge=window.edge,
        reason=window.problem,
        log_prices=_prices((best,), math.log(best.width)),
        pace=_pace((best,), math.log(best.width), None),
    )


def _prices(cells: Sequence[Cell], log_width: float) -> tuple[float, float]:
    """Logarithms of the prices at a width between those of the cells, by straight lines in log width."""
    totals = [math.fsum(run.total for run in cell.runs) / len(cell.runs) for cell in cells]
    return _between(cells, log_width, [cell.compute for cell in cells]), _between(cells, log_width, totals)


def _pace(cells: Sequence[Cell], log_width: float, width_error: float | None) -> Pace | None:
    """Seconds per FLOP at a width, with the error from the width: the slope of the pace over log width times its error."""
    paces = [cell.runs[0].seconds / cell.runs[0].compute for cell in cells if cell.runs[0].seconds]
    if len(paces) < len(cells):
        return None
    error = None
    if width_error is not None:
        error = abs(math.log(paces[-1] / paces[0]) / math.log(cells[-1].width / cells[0].width)) * width_error
    return Pace(_between(cells, log_width, paces), error)


def _between(cells: Sequence[Cell], log_width: float, values: Sequence[float]) -> float:
    """Logarithm of a value at a width, from its values at the cells."""
    return float(np.interp(log_width, [math.log(cell.width) for cell in cells], np.log(values)))
