"""The variance of log loss between seeds, and quantiles that go with it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from einsearch_cli.scaling.observations import Cell, Level

CONFIDENCE = 0.95
"""Level of every interval in this package."""

UNEQUAL = 0.01
"""p of the test below which every structure keeps a variance of its own."""
PAIRED = 0.01
"""p of the test below which seeds are taken to move all losses of a rung together."""


@lru_cache(maxsize=4096)
def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Two-sided Student-t quantile.

    >>> round(t_quantile(2), 4)
    4.3027
    """
    from scipy.special import stdtrit  # 0.3 s to import: only when an interval is wanted

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
    """How much log losses vary between seeds.

    One variance for the whole study has many degrees of freedom, so it is known well from three seeds a cell, where a
    structure's own would be wrong by half. It is kept only where the Brown–Forsythe test (1974) does not contradict.
    """

    pooled: Variance | None
    """Over all cells of the study; None where no cell has two seeds."""
    own: Mapping[Hashable, Variance]
    """Of each structure, where their variances differ; empty where one holds for all."""
    contrast: Variance | None
    """Of what is left of `pooled` after the effect that a seed has on all runs of a rung, where that effect is real."""
    homogeneity_p: float | None
    """p of the Brown–Forsythe test that all structures have one variance; None where it cannot be made."""
    pairing_p: float | None
    """p of the F test that a seed moves all losses of a rung together; None where it cannot be made."""

    def of(self, structure: Hashable) -> Variance | None:
        """The variance of one run of a structure."""
        return self.own.get(structure, self.pooled)

    def of_difference(
        self, first: Hashable, first_unit: float, second: Hashable, second_unit: float
    ) -> Variance | None:
        """Variance of the difference of two estimates, each with variance `unit` × that of one run.

        Unequal variances get Satterthwaite's (1946) degrees of freedom.
        """
        if not self.own:
            one = self.contrast or self.pooled
            return None if one is None else Variance(one.value * (first_unit + second_unit), one.degrees)
        a, b = self.of(first), self.of(second)
        if a is None or b is None:
            return None
        parts = a.value * first_unit, b.value * second_unit
        whole = sum(parts)
        spread = parts[0] ** 2 / a.degrees + parts[1] ** 2 / b.degrees
        return Variance(whole, whole**2 / spread if spread > 0 else a.degrees + b.degrees)


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
                    # Brown–Forsythe's |residual from the median|; with an odd number of seeds one is always 0 and
                    # would hide differences (Hines and Hines 2000), so it is left out.
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
    contrast, pairing_p = _without_seed_effects(levels.values(), pooled)
    return Noise(pooled, {}, contrast, homogeneity_p, pairing_p)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _brown_forsythe(groups: list[list[float]]) -> float | None:
    """p of the one-way analysis of variance of the absolute deviations from the medians."""
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


def _without_seed_effects(
    structures: Iterable[Sequence[Level]], pooled: Variance
) -> tuple[Variance | None, float | None]:
    """The variance left when each seed may move all runs of a rung, and p of the F test that none does.

    Only rungs whose measured cells all have the same seeds can be paired.
    """
    rungs: dict[int, list[Cell]] = defaultdict(list)
    for mine in structures:
        for level in mine:
            rungs[level.rung] += level.cells
    explained, used = 0.0, 0
    for cells in rungs.values():
        if len({cell.seeds for cell in cells}) != 1 or len(cells) < 2 or len(cells[0].seeds) < 2:
            return None, None
        logs = np.array([cell.logs for cell in cells])
        effects = (logs - logs.mean(axis=1, keepdims=True)).mean(axis=0)
        explained += len(cells) * float(effects @ effects)
        used += len(effects) - 1
    left = pooled.degrees - used
    rest = pooled.value * pooled.degrees - explained
    if used == 0 or left < 1 or rest <= 0:
        return None, None
    from scipy.special import fdtrc

    p = float(fdtrc(used, left, (explained / used) / (rest / left)))
    return (Variance(rest / left, left) if p < PAIRED else None), p
