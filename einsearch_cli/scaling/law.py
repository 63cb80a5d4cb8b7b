"""Scaling laws: L = L0 + (C / C0)^(−a), fitted to the losses at best widths, and their predictions.

Symbols: L0 is the loss that no compute removes, a the exponent, C0 a scale; x is log C. Axes of arrays: R resamples, N
points, P parameters. A law is fitted as log L = log(L0 + exp(b − a (x − x̄))), so that its parameters are nearly
uncorrelated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from einsearch_cli.errors import FitError
from einsearch_cli.scaling.noise import CONFIDENCE, Floats, Noise, t_quantile
from einsearch_cli.scaling.surface import Surface
from einsearch_cli.structures.record import Record

FEWEST = 4
"""The fewest rungs: a law has three unknowns, and one more rung shows whether it holds."""
RESAMPLES = 400
_SEED = 20240
"""Seed of the resamples, so that equal losses always give equal intervals."""
WIDEST = 4.0
"""The largest ratio between the ends of an exponent's interval; a wider one says nothing."""
MISFIT = 1e-3
"""The p of the test of fit below which losses do not follow a law."""
_STEEPEST, _FLATTEST = 3.0, 1e-3
"""The range of exponents that are believed."""


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Log losses of one structure over log compute, with their covariance."""

    log_compute: Floats
    log_losses: Floats
    covariance: Floats
    run_variance: float
    """Variance of the log loss of one run."""

    @classmethod
    def of_surface(cls, structure: Hashable, found: Surface, noise: Noise) -> LossCurve:
        """The minima of a structure.

        Raises:
            FitError: no width was trained from two seeds.
        """
        variance = noise.of(structure)
        if variance is None:
            raise FitError("losses of one seed each: how much they vary is not known", remedy="train from two seeds")
        spread = variance.value * t_quantile(variance.degrees) ** 2 / t_quantile(1e9) ** 2
        log_compute = np.array([minimum.log_prices[0] for minimum in found.minima])
        covariance = spread * found.covariance
        if noise.seed is not None:
            covariance = covariance + np.diag([noise.seed.value / len(minimum.best.runs) for minimum in found.minima])
        one_run = spread + (0.0 if noise.seed is None else noise.seed.value)
        return cls(log_compute, found.log_losses, covariance, one_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law(Record):
    """A law L = floor + (C / scale)^(−exponent), with 95% bootstrap intervals."""

    floor: float
    """The loss L0 that no compute removes."""
    floor_low: float
    floor_high: float
    exponent: float
    exponent_low: float
    exponent_high: float
    scale: float
    """The scale C0 in training FLOPs, at which the loss is L0 + 1."""
    scale_low: float
    scale_high: float
    shared_floor: bool
    """Whether all structures were fitted with one L0."""
    rungs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """The prediction of a loss that was not measured."""

    compute: float
    loss: float
    low: float
    high: float
    """95% interval for the loss of one run: error of the fit and seed noise together."""
    decades_beyond: float
    """Distance of `compute` from the most expensive or cheapest run in powers of ten; 0 between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover(Record):
    """The compute at which two structures reach the same loss."""

    compute: float
    low: float | None
    high: float | None
    """95% bootstrap interval; an end is None if over 2.5% of the resampled laws do not cross on its side."""


@dataclass(frozen=True)
class Laws:
    """Fitted laws of some structures, with resamples of all of them."""

    curves: Mapping[Hashable, LossCurve]
    centre: float
    """The centre x̄ of log compute."""
    parameters: Floats
    """Array (1 + R, structures, 3) of L0, b and a; the first row is the fit, the others are resamples."""
    shared_floor: bool

    def _of(self, name: Hashable) -> Floats:
        return self.parameters[:, list(self.curves).index(name)]

    def law(self, name: Hashable) -> Law:
        """The law of one structure with its intervals.

        Raises:
            FitError: the interval of the exponent says nothing.
        """
        floor, b, a = self._of(name).T
        low, high = _percentiles(a)
        if high > WIDEST * low:
            raise FitError(
                f"an exponent of {a[0]:.2g} with a 95% interval of {low:.2g} to {high:.2g}: that says nothing",
                remedy="train more seeds a width, or at budgets further apart",
            )
        log_scale = self.centre + b / a
        ends = _percentiles(log_scale)
        return Law(
            floor=float(floor[0]),
            floor_low=_percentiles(floor)[0],
            floor_high=_percentiles(floor)[1],
            exponent=float(a[0]),
            exponent_low=low,
            exponent_high=high,
            scale=math.exp(log_scale[0]),
            scale_low=math.exp(max(ends[0], -300)),
            scale_high=math.exp(min(ends[1], 300)),
            shared_floor=self.shared_floor,
            rungs=len(self.curves[name].log_compute),
        )

    def predict(self, name: Hashable, compute: float) -> Prediction:
        """The loss at a compute, with an interval for one run (its width is the best one)."""
        x, curve = math.log(compute), self.curves[name]
        found = _log_loss(self._of(name), x - self.centre)
        noise = math.sqrt(curve.run_variance) * np.random.default_rng(_SEED).standard_normal(len(found))
        noise[0] = 0.0  # the first row is the estimate
        low, high = _percentiles(found + noise)
        beyond = max(x - curve.log_compute[-1], curve.log_compute[0] - x, 0.0) / math.log(10)
        return Prediction(
            compute=compute,
            loss=math.exp(found[0]),
            low=math.exp(low),
            high=math.exp(high),
            decades_beyond=float(beyond),
        )

    def crossover(self, first: Hashable, second: Hashable, decades: float = 3.0) -> Crossover:
        """The compute at which two laws meet, searched up to `decades` decades beyond the runs on both sides.

        Raises:
            FitError: they do not meet there.
        """
        ends = [curve.log_compute[i] for curve in (self.curves[first], self.curves[second]) for i in (0, -1)]
        reach = decades * math.log(10)
        x = np.linspace(min(ends) - reach, max(ends) + reach, 600)
        one, other = (self._of(name)[:, :, None] for name in (first, second))
        apart = _log_loss(one, x - self.centre) - _log_loss(other, x - self.centre)
        meets = np.sign(apart[:, 1:]) != np.sign(apart[:, :-1])
        if not meets[0].any():
            ahead = first if apart[0, len(x) // 2] < 0 else second
            raise FitError(
                f"{first} and {second} do not cross within {decades:g} decades of the runs: {ahead} stays ahead",
                remedy="compare their predictions at the compute that matters",
            )
        k = np.argmax(meets, axis=1)
        rows = np.arange(len(apart))
        left, right = apart[rows, k], apart[rows, k + 1]
        at = x[k] + (x[1] - x[0]) * left / (left - right)
        at[~meets.any(axis=1)] = np.inf
        low, high = np.quantile(np.concatenate([at[1:], [-np.inf]]), [0.025, 0.975], method="nearest")
        return Crossover(
            compute=math.exp(at[0]),
            low=math.exp(low) if math.isfinite(low) else None,
            high=math.exp(high) if math.isfinite(high) else None,
        )


def _percentiles(draws: Floats) -> tuple[float, float]:
    """Ends of the bias-corrected percentile interval (Efron 1981); the first draw is the estimate."""
    from scipy.special import ndtr, ndtri

    rest = draws[1:]
    below = (np.sum(rest < draws[0]) + 0.5 * np.sum(rest == draws[0])) / len(rest)
    shift = 2 * float(ndtri(np.clip(below, 0.02, 0.98)))
    reach = float(ndtri((1 + CONFIDENCE) / 2))
    low, high = np.quantile(rest, [float(ndtr(shift - reach)), float(ndtr(shift + reach))])
    return float(low), float(high)


def _log_loss(parameters: Floats, x: Floats | float) -> Floats:
    """Log losses: (R,) at one x from (R, 3), or (R, N) at N values from (R, 3, 1)."""
    found: Floats = np.log(parameters[:, 0] + np.exp(np.clip(parameters[:, 1] - parameters[:, 2] * x, -500, 500)))
    return found


def fit_laws(curves: Mapping[Hashable, LossCurve], *, shared_floor: bool = True) -> Laws:
    """Fit a law to each curve, by default with one L0 for all, as they are losses of one task.

    Robust least squares on log losses in units of their errors: soft-L1 loss, Levenberg–Marquardt with the analytic
    Jacobian, L0 ≥ 0 (Hoffmann et al. 2022 fit laws robustly, too). Intervals come from a parametric bootstrap: the
    fitted losses with errors of the measured covariance, which are enlarged if the residuals are larger than the
    covariance says.

    Raises:
        FitError: losses to which no law can be fitted; the message says what would help.
    """
    for name, curve in curves.items():
        check_curve(name, curve)
    centre = float(np.mean(np.concatenate([curve.log_compute for curve in curves.values()])))
    members = np.concatenate([np.full(len(curve.log_compute), i) for i, curve in enumerate(curves.values())])
    x = np.concatenate([curve.log_compute for curve in curves.values()]) - centre
    y = np.concatenate([curve.log_losses for curve in curves.values()])
    errors = np.sqrt(np.concatenate([np.diag(curve.covariance) for curve in curves.values()]))
    problem = _Problem(x, errors, members, len(curves), shared_floor)
    best = problem.solve(y[None, :])
    fitted = problem.log_losses(best)[0]
    inflation = _inflation(curves, (y - fitted) / errors, members, problem.unknowns)
    source = np.random.default_rng(_SEED)
    drawn = np.concatenate(
        [
            source.standard_normal((RESAMPLES, len(curve.log_compute)))
            @ np.linalg.cholesky(curve.covariance + 1e-18 * np.eye(len(curve.log_compute))).T
            for curve in curves.values()
        ],
        axis=1,
    )
    resampled = problem.solve(fitted + inflation * drawn, start=best)
    return Laws(curves, centre, problem.by_structure(np.concatenate([best, resampled])), shared_floor)


def check_curve(name: Hashable, curve: LossCurve) -> None:
    """Raise FitError for losses to which no law can be fitted."""
    x, y = curve.log_compute, curve.log_losses
    bad = [i for i in range(len(y)) if not (math.isfinite(y[i]) and math.isfinite(x[i]))]
    if bad:
        raise FitError(f"{name}: the loss of rung {bad[0] + 1} is not a positive number", remedy="repeat that rung")
    if len(y) < FEWEST:
        raise FitError(
            f"{name}: {len(y)} rung{'s' * (len(y) != 1)}, and a scaling law needs {FEWEST}",
            remedy=f"train at {FEWEST - len(y)} more budget{'s' * (FEWEST - len(y) > 1)}",
        )
    errors = np.sqrt(np.diag(curve.covariance))
    steps, step_errors = np.diff(y), np.hypot(errors[1:], errors[:-1])
    rising = np.flatnonzero(steps > 3 * step_errors)
    if len(rising):
        i = int(rising[0])
        raise FitError(
            f"{name}: the loss rises from rung {i + 1} to rung {i + 2} by {math.expm1(steps[i]):.1%}",
            remedy="look for an outlier or an untuned learning rate there, and repeat these rungs with more seeds",
        )
    if y[0] - y[-1] < 3 * math.hypot(errors[0], errors[-1]):
        raise FitError(
            f"{name}: the losses of the first and the last rung differ by {math.expm1(y[0] - y[-1]):.1%}, no more than noise",
            remedy="train at budgets further apart, or from more seeds",
        )


def _inflation(curves: Mapping[Hashable, LossCurve], residuals: Floats, members: Floats, unknowns: int) -> float:
    """The ratio of the residuals to their expected size, at least 1."""
    from scipy.special import chdtrc

    freedom = len(residuals) - unknowns
    if freedom < 1:
        return 1.0
    squares = float(residuals @ residuals)
    if chdtrc(freedom, squares) < MISFIT:
        worst = int(np.argmax(np.abs(residuals)))
        name = list(curves)[int(members[worst])]
        rung = worst - int(np.argmax(members == members[worst])) + 1
        raise FitError(
            f"{name}: the losses do not follow a scaling law; that of rung {rung} lies off most, by "
            f"{abs(residuals[worst]):.1f} standard errors",
            remedy="repeat that rung with more seeds, or leave it out",
        )
    return max(1.0, math.sqrt(squares / freedom))


class _Problem:
    """Least-squares problems with the same points, solved for R rows of log losses at once."""

    def __init__(self, x: Floats, errors: Floats, members: Floats, structures: int, shared_floor: bool) -> None:
        self.x, self.errors, self.members, self.structures = x, errors, members.astype(int), structures
        self.floors = 1 if shared_floor else structures
        self.floor_of = np.zeros(structures, dtype=int) if shared_floor else np.arange(structures)
        self.unknowns = self.floors + 2 * structures

    def log_losses(self, parameters: Floats) -> Floats:
        """Log losses (R, N) of parameters (R, P)."""
        floor, b, a = np.moveaxis(self.by_structure(parameters)[:, self.members], -1, 0)
        found: Floats = np.log(floor + np.exp(b - a * self.x))
        return found

    def by_structure(self, parameters: Floats) -> Floats:
        """Parameters (R, P) arranged as (R, structures, 3)."""
        n, f = self.structures, self.floors
        parts = parameters[:, self.floor_of], parameters[:, f : f + n], parameters[:, f + n :]
        return np.stack(parts, axis=-1)

    def solve(self, y: Floats, start: Floats | None = None) -> Floats:
        """The best parameters for each row of log losses; from one start, or the best result from three."""
        if start is not None:
            return self._descend(y, np.repeat(start, len(y), axis=0))[0]
        ends = [
            self._descend(y, np.repeat(self._start(y[0], share)[None], len(y), axis=0)) for share in (0.0, 0.5, 0.9)
        ]
        best = np.argmin([cost for _, cost in ends], axis=0)
        found: Floats = np.stack([parameters for parameters, _ in ends])[best, np.arange(len(y))]
        return found

    def _start(self, y: Floats, share: float) -> Floats:
        """A floor at a share of the lowest loss, and straight lines in (x, log(L − L0))."""
        floor = share * math.exp(float(np.min(y)))
        lines = [
            np.polyfit(self.x[self.members == i], np.log(np.exp(y[self.members == i]) - floor), 1)
            for i in range(self.structures)
        ]
        return np.array([floor] * self.floors + [b for _, b in lines] + [max(-slope, 0.01) for slope, _ in lines])

    def _cost(self, residuals: Floats) -> Floats:
        """Soft-L1: quadratic for small residuals, linear for large ones."""
        found: Floats = np.sum(2 * (np.sqrt(1 + residuals**2) - 1), axis=1)
        return found

    def _descend(self, y: Floats, parameters: Floats) -> tuple[Floats, Floats]:
        """Levenberg–Marquardt with a separate damping for every row, on residuals reweighted for the soft-L1 loss."""
        p, f, n = self.unknowns, self.floors, self.structures
        rows = np.arange(len(y))
        least = np.array([0.0] * f + [-np.inf] * n + [_FLATTEST] * n)
        most = np.array([np.inf] * (f + n) + [_STEEPEST] * n)
        damping = np.full(len(y), 1e-3)
        residuals = (self.log_losses(parameters) - y) / self.errors
        cost = self._cost(residuals)
        for _ in range(100):
            floor, b, a = np.moveaxis(self.by_structure(parameters)[:, self.members], -1, 0)
            power = np.exp(b - a * self.x)
            loss = floor + power
            jacobian = np.zeros((len(y), len(self.x), p))
            points = np.arange(len(self.x))
            jacobian[:, points, self.floor_of[self.members]] = 1 / (loss * self.errors)
            jacobian[:, points, f + self.members] = power / (loss * self.errors)
            jacobian[:, points, f + n + self.members] = -self.x * power / (loss * self.errors)
            weight = 1 / np.sqrt(1 + residuals**2)
            gradient = np.einsum("rnp,rn->rp", jacobian, weight * residuals)
            # A parameter at its bound that would leave it stays there.
            held = ((parameters <= least) & (gradient > 0)) | ((parameters >= most) & (gradient < 0))
            jacobian = np.where(held[:, None, :], 0.0, jacobian)
            gradient = np.where(held, 0.0, gradient)
            hessian = (jacobian * weight[..., None]).swapaxes(1, 2) @ jacobian
            size = hessian[:, range(p), range(p)]
            hessian[:, range(p), range(p)] = size * (1 + damping[:, None]) + np.where(size > 0, 1e-12, 1.0)
            step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
            tried = np.clip(parameters + step, least, most)
            tried_residuals = (self.log_losses(tried) - y) / self.errors
            tried_cost = self._cost(tried_residuals)
            better = tried_cost < cost
            damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
            moved = np.max(np.abs(tried - parameters) / (np.abs(parameters) + 1e-3), axis=1)
            parameters = np.where(better[:, None], tried, parameters)
            residuals = np.where(better[:, None], tried_residuals, residuals)
            done = (better & (cost - tried_cost < 1e-9 * (1 + cost)) & (moved < 1e-5)) | (damping >= 1e9)
            cost = np.where(better, tried_cost, cost)
            if done[rows].all():
                break
        return parameters, cost
