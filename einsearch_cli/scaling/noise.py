"""The variance of log loss between seeds, and the quantiles for intervals from it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from einsearch_cli.scaling.observations import Cell, Level

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

CONFIDENCE = 0.95
"""Level of every interval in this package."""

UNEQUAL = 0.01
"""The p of the test below which every structure keeps its own variance."""
PAIRED = 0.01
"""The p of the test below which seeds are assumed to move all losses of a rung together."""


@lru_cache(maxsize=4096)
def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """The two-sided Student-t quantile.

    >>> round(t_quantile(2), 4)
    4.3027
    """
    from scipy.special import stdtrit  # takes 0.3 s to import; needed only for intervals

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student-t interval for the mean of `values`; None for fewer than two.

    >>> tuple(round(end, 3) for end in t_interval([1.0, 2.0, 3.0]) or ())
    (-0.484, 4.484)
    >>> t_interval([1.0]) is None
    True
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class Variance:
    """An estimated variance of the log loss of one run, with its degrees of freedom."""

    value: float
    degrees: float


@dataclass(frozen=True)
class Noise:
    """The variation of log losses between seeds.

    One variance for the whole study has many degrees of freedom, so three seeds per cell determine it well; a
    structure's own variance would be wrong by half. It is used unless the Brown–Forsythe test (1974) contradicts it.
    """

    pooled: Variance | None
    """Variance over all cells of the study; None if no cell has two seeds."""
    own: Mapping[Hashable, Variance]
    """Variance of each structure, if they differ; empty if one variance holds for all."""
    seed: Variance | None
    """Variance of a seed's effect on all runs of a rung, if a test finds one; `pooled` then excludes it."""
    homogeneity_p: float | None
    """The p of the Brown–Forsythe test that all structures have one variance; None if it is not possible."""
    pairing_p: float | None
    """The p of the F test that a seed moves all losses of a rung together; None if it is not possible."""

    def of(self, structure: Hashable) -> Variance | None:
        """The variance of one run of a structure."""
        return self.own.get(structure, self.pooled)

    def of_run(self, structure: Hashable) -> Variance | None:
        """The variance of a run of a structure around the mean of its cell: that of `of`, and that of its seed."""
        own = self.of(structure)
        if own is None or self.seed is None:
            return own
        whole = own.value + self.seed.value  # degrees of freedom are Satterthwaite's, as in `of_contrasts`
        return Variance(whole, whole**2 / (own.value**2 / own.degrees + self.seed.value**2 / self.seed.degrees))

    def of_contrasts(self, first: Part, second: Part | None = None) -> tuple[Floats, Floats] | None:
        """Variances of linear combinations of log losses of one or two structures, and their degrees of freedom.

        A seed's effect on all runs of a rung cancels if the weights of the two structures sum to 0 there. Degrees of
        freedom of a sum of variances are Satterthwaite's (1946). The result is None if no cell has two seeds.
        """
        parts = [first] if second is None else [first, second]
        found = [(self.of(part.structure), part.units) for part in parts]
        terms: list[tuple[Floats, float]] = [
            (variance.value * units, variance.degrees) for variance, units in found if variance is not None
        ]
        if len(terms) < len(parts):
            return None
        if not self.own:
            terms = [(np.sum([value for value, _ in terms], axis=0), terms[0][1])]
        # A seed adds the same number to all losses of a rung, and a mean over n seeds has 1 / n of its variance. Where the
        # weights of both structures at a rung sum to 0, as in a difference, the effect is gone before it is squared.
        if self.seed is not None:
            shared: dict[int, Floats] = {}
            for part in parts:
                for rung, seeds, weights in zip(part.rungs, part.seeds, part.weights.T, strict=True):
                    shared[rung] = shared.get(rung, np.zeros(1)) + weights / math.sqrt(seeds)
            squares = np.sum([both * both for both in shared.values()], axis=0)
            terms.append((self.seed.value * squares, self.seed.degrees))
        whole: Floats = np.sum([value for value, _ in terms], axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            degrees = whole**2 / np.sum([value**2 / freedom for value, freedom in terms], axis=0)
        return whole, np.where(np.isfinite(degrees), degrees, terms[0][1])


@dataclass(frozen=True)
class Part:
    """The contribution of one structure to contrasts of log losses."""

    structure: Hashable
    weights: Floats
    """Weights of the log losses, (contrasts, rungs)."""
    covariance: Floats
    """Covariance of the log losses, for a unit variance of one run."""
    rungs: tuple[int, ...]
    seeds: tuple[int, ...]
    """Number of seeds per width."""

    @property
    def units(self) -> Floats:
        """Variance of each contrast for a unit variance of one run."""
        units: Floats = np.einsum("ci,ij,cj->c", self.weights, self.covariance, self.weights)
        return units


def noise_of(levels: Mapping[Hashable, Sequence[Level]]) -> Noise:
    """The residual variance of log loss around the mean of each cell, over all cells with two seeds or more."""
    squares: dict[Hashable, float] = {}
    degrees: dict[Hashable, int] = {}
    spreads: dict[Hashable, list[float]] = {}
    for structure, mine in levels.items():
        total, freedom, around = 0.0, 0, list[float]()
        for level in mine:
            for cell in level.cells:
                n = len(cell.logs)
                if n > 1:
                    middle = _median(cell.logs)
                    # Brown–Forsythe uses |residual from the median|. With an odd number of seeds one residual is always
                    # 0 and would hide differences, so it is left out (Hines and Hines 2000).
                    near = sorted(abs(value - middle) for value in cell.logs)
                    around += near[n % 2 :]
                    total += sum((value - cell.log_mean) ** 2 for value in cell.logs)
                    freedom += n - 1
        if freedom:
            squares[structure], degrees[structure], spreads[structure] = total, freedom, around
    if not degrees:
        return Noise(None, {}, None, None, None)
    pooled = Variance(sum(squares.values()) / sum(degrees.values()), sum(degrees.values()))
    homogeneity_p = _brown_forsythe(list(spreads.values()))
    if homogeneity_p is not None and homogeneity_p < UNEQUAL:
        own = {
            structure: Variance(squares[structure] / degrees[structure], degrees[structure]) for structure in degrees
        }
        return Noise(pooled, own, None, homogeneity_p, None)
    rest, effect, pairing_p = _seed_effects(levels.values(), pooled)
    return Noise(rest, {}, effect, homogeneity_p, pairing_p)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _brown_forsythe(groups: list[list[float]]) -> float | None:
    """The p of the one-way analysis of variance of absolute deviations from the medians."""
    groups = [group for group in groups if len(group) > 1]
    n, k = sum(map(len, groups)), len(groups)
    if k < 2 or n <= k:
        return None
    from scipy.special import fdtrc

    means = [sum(group) / len(group) for group in groups]
    grand = sum(sum(group) for group in groups) / n
    between = sum(len(group) * (mean - grand) ** 2 for group, mean in zip(groups, means, strict=True)) / (k - 1)
    within = sum((v - mean) ** 2 for group, mean in zip(groups, means, strict=True) for v in group) / (n - k)
    return float(fdtrc(k - 1, n - k, between / within)) if within > 0 else None


def _seed_effects(
    structures: Iterable[Sequence[Level]], pooled: Variance
) -> tuple[Variance, Variance | None, float | None]:
    """The variance without a common effect of seeds, the variance of this effect, and the p of the F test for it.

    Only rungs whose measured cells all have the same seeds can be paired. Without a clear effect nothing is removed,
    since pairing would cost degrees of freedom and gain nothing.
    """
    rungs: dict[int, list[Cell]] = defaultdict(list)
    for mine in structures:
        for level in mine:
            rungs[level.rung] += level.cells
    explained, used, cells_each = 0.0, 0, list[int]()
    for cells in rungs.values():
        if len({cell.seeds for cell in cells}) != 1 or len(cells) < 2 or len(cells[0].seeds) < 2:
            return pooled, None, None
        logs = np.array([cell.logs for cell in cells])
        effects = (logs - logs.mean(axis=1, keepdims=True)).mean(axis=0)
        explained += len(cells) * float(effects @ effects)
        used += len(effects) - 1
        cells_each.append(len(cells))
    left = pooled.degrees - used
    rest = pooled.value * pooled.degrees - explained
    if used == 0 or left < 1 or rest <= 0:
        return pooled, None, None
    from scipy.special import fdtrc

    between, within = explained / used, rest / left
    p = float(fdtrc(used, left, between / within))
    if p >= PAIRED:
        return pooled, None, p
    return Variance(within, left), Variance((between - within) * len(cells_each) / sum(cells_each), used), p
