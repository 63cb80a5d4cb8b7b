"""Do the exponents of a structure predict its loss? Correlations with permutation tests, joint fits, and controls.

Axes of arrays: S structures, K exponents, R rungs, D draws.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.claims.inference import DrawnEstimate, Estimate, StudentEstimate, of_slope
from einsearch_cli.reports import StudyReport
from einsearch_cli.scaling import levels_of
from einsearch_cli.scaling.noise import Floats, noise_of
from einsearch_cli.structures import Structure, parse_structure

DRAWS = 2000
SEED = 0
FULL = "structures of ω = 0 and ψ = 1"


@dataclass(frozen=True)
class Sample:
    """Structures with their exponents, and their log losses at rungs that all were trained at."""

    names: tuple[str, ...]
    exponents: tuple[Mapping[str, float], ...]
    log_losses: Floats
    """(S, R)."""
    budgets: tuple[float, ...]
    """Training FLOPs of a run, cheapest rung first."""
    inner: tuple[bool, ...]
    """Whether the best width at the last rung lies between others: the loss of a structure at an end is too large."""
    ends: tuple[float, ...]
    """Share of all structures of the study whose best width is an end of the grid, at every rung."""

    @classmethod
    def of_study(cls, study: StudyReport) -> Sample:
        """The structures of a study, each at its best width; layers of experts are left out."""
        structures = list(study.exponents)
        return cls(
            names=tuple(map(str, structures)),
            exponents=tuple(study.exponents[item] for item in structures),
            log_losses=np.array([study.common_log_losses(item) for item in structures]),
            budgets=tuple(study.common_rungs.values()),
            inner=tuple(_is_inner(study, item) for item in structures),
            ends=tuple(edges_at(study, rung).share for rung in study.common_rungs),
        )

    def where(self, keep: Sequence[bool]) -> Sample:
        """The structures that are kept."""
        at = [number for number, kept in enumerate(keep) if kept]
        names, exponents = tuple(self.names[i] for i in at), tuple(self.exponents[i] for i in at)
        return replace(
            self,
            names=names,
            exponents=exponents,
            log_losses=self.log_losses[at],
            inner=tuple(self.inner[i] for i in at),
        )

    def at_rungs(self, rungs: Sequence[int]) -> Sample:
        """These rungs alone."""
        return replace(
            self,
            log_losses=self.log_losses[:, list(rungs)],
            budgets=tuple(self.budgets[rung] for rung in rungs),
            ends=tuple(self.ends[rung] for rung in rungs),
        )

    def without_dense(self) -> Sample:
        """All but dense."""
        return self.where([name != str(parse_structure("dense")) for name in self.names])

    def full(self) -> Sample:
        """The structures of full rank without shared parameters."""
        return self.where([row["ω"] == 0 and row["1 − ψ"] == 0 for row in self.exponents])

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Exponents that are not the same for all."""
        return tuple(name for name in self.exponents[0] if len({row[name] for row in self.exponents}) > 1)

    @cached_property
    def x_SK(self) -> Floats:
        """The exponents that vary."""
        return np.array([[row[name] for name in self.varying] for row in self.exponents])


@dataclass(frozen=True)
class Edges:
    """The best widths at one rung that are an end of the grid, so that a wider or a narrower network may be better."""

    narrowest: int
    widest: int
    structures: int

    @property
    def share(self) -> float:
        return (self.narrowest + self.widest) / self.structures


def edges_at(study: StudyReport, rung: int) -> Edges:
    """The best widths of all structures at a rung."""
    edges = [m.edge for item in study.exponents for m in study.surfaces[item].minima if m.level.rung == rung]
    return Edges(edges.count("low"), edges.count("high"), len(edges))


def _is_inner(study: StudyReport, structure: Structure) -> bool:
    last = max(study.common_rungs)
    return all(minimum.edge is None for minimum in study.surfaces[structure].minima if minimum.level.rung == last)


def slopes_of(x_SK: Floats, y_SR: Floats) -> Floats:
    """(K, R): log loss for each unit of every exponent, all others held."""
    found: Floats = np.linalg.lstsq(x_SK - x_SK.mean(axis=0), y_SR - y_SR.mean(axis=0), rcond=1e-9)[0]
    return found


def joint_slopes(sample: Sample) -> dict[str, list[DrawnEstimate]]:
    """Slope of each exponent at every rung: intervals by drawing structures, p by permuting residuals.

    The permutation is Freedman and Lane's (1983): residuals of the fit without the exponent are permuted, and the share
    of permutations whose |t| is as large as the observed one is p.
    """
    x_SK, y_SR = sample.x_SK, sample.log_losses
    drawn_DKR = _drawn_slopes(x_SK, y_SR)
    how = f"{len(x_SK)} structures, bootstrap over structures, permutation test"
    slopes_KR = slopes_of(x_SK, y_SR)
    return {
        name: [
            DrawnEstimate(float(slopes_KR[k, r]), drawn_DKR[:, k, r], how, freedman_lane(x_SK, y_SR[:, r], k))
            for r in range(y_SR.shape[1])
        ]
        for k, name in enumerate(sample.varying)
    }


def slope_trend(sample: Sample, name: str) -> DrawnEstimate:
    """The change of an exponent's slope for ten times the compute."""
    decades_R = np.log10(np.array(sample.budgets))
    line_R = (decades_R - decades_R.mean()) / np.sum((decades_R - decades_R.mean()) ** 2)
    k = sample.varying.index(name)
    drawn_DKR = _drawn_slopes(sample.x_SK, sample.log_losses)
    slope = float(slopes_of(sample.x_SK, sample.log_losses)[k] @ line_R)
    # The trend of the slope is the slope of the trends: one regression, which is permuted as such.
    p = freedman_lane(sample.x_SK, sample.log_losses @ line_R, k)
    return DrawnEstimate(
        slope,
        drawn_DKR[:, k] @ line_R,
        f"{len(sample.names)} structures, bootstrap over structures, permutation test",
        p,
    )


def _drawn_slopes(x_SK: Floats, y_SR: Floats) -> Floats:
    """(D, K, R); draws whose exponents hang together linearly are drawn again."""
    source, count = np.random.default_rng(SEED), len(x_SK)
    found: list[Floats] = []
    while len(found) < DRAWS:
        at = source.integers(count, size=count)
        x = x_SK[at] - x_SK[at].mean(axis=0)
        if np.linalg.matrix_rank(x) == x.shape[1]:
            found.append(slopes_of(x_SK[at], y_SR[at]))
    return np.stack(found)


def freedman_lane(x_SK: Floats, y_S: Floats, k: int) -> float:
    """Two-sided p of exponent k in the joint fit."""
    rest, own = np.delete(x_SK, k, axis=1), x_SK[:, k]
    ones = np.ones((len(y_S), 1))
    others = np.concatenate([ones, rest], axis=1)
    projection = others @ np.linalg.pinv(others)
    fitted, residual = projection @ y_S, y_S - projection @ y_S
    source = np.random.default_rng(SEED)
    y_DS = fitted + np.stack([residual, *(source.permutation(residual) for _ in range(DRAWS))])
    own_left = own - projection @ own
    left_DS = y_DS - y_DS @ projection
    slope_D = left_DS @ own_left / (own_left @ own_left)
    error_D = np.sum((left_DS - slope_D[:, None] * own_left) ** 2, axis=1)
    t_D = np.abs(slope_D) / np.sqrt(np.maximum(error_D, 1e-300))
    return float(np.mean(t_D >= t_D[0] * (1 - 1e-12)))


def correlations(sample: Sample, name: str, rung: int) -> dict[str, Any]:
    """Spearman's and Kendall's correlation of one exponent with the loss, with an interval and a permutation p."""
    from scipy.stats import kendalltau, rankdata

    x, y = sample.x_SK[:, sample.varying.index(name)], sample.log_losses[:, rung]
    source = np.random.default_rng(SEED)
    at_DS = source.integers(len(x), size=(DRAWS, len(x)))
    drawn_D = _pearson(rankdata(x[at_DS], axis=1), rankdata(y[at_DS], axis=1))
    shuffled_D = _pearson(
        np.broadcast_to(rankdata(x), (DRAWS, len(x))), source.permuted(np.tile(rankdata(y), (DRAWS, 1)), axis=1)
    )
    rho = float(_pearson(rankdata(x)[None], rankdata(y)[None])[0])
    known = drawn_D[np.isfinite(drawn_D)]
    return {
        "spearman": rho,
        "spearman_low": float(np.quantile(known, 0.025)),
        "spearman_high": float(np.quantile(known, 0.975)),
        "p": float((1 + np.sum(np.abs(shuffled_D) >= abs(rho) - 1e-12)) / (1 + DRAWS)),
        "kendall": float(kendalltau(x, y).statistic),
    }


def _pearson(a_DS: Floats, b_DS: Floats) -> Floats:
    a, b = (part - part.mean(axis=1, keepdims=True) for part in (a_DS, b_DS))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return found


def nu_slope(sample: Sample, rung: int = -1, *, hold_bond: bool = True) -> StudentEstimate:
    """Log loss for each unit of ν, with the sum of the exponents of bonds held where it varies.

    A bond costs FLOPs, so a large bond goes with a large ν: without holding it the slope has the price of both.
    """
    what = "structures" if len(sample.names) != 1 else "structure"
    held = [[row["bond"] for row in sample.exponents]] if hold_bond and "bond" in sample.varying else []
    return of_slope([row["ν"] for row in sample.exponents], sample.log_losses[:, rung].tolist(), what, held)


def exponent_differences(study: StudyReport, rungs: Sequence[int] | None = None) -> Estimate:
    """Exponents of the scaling laws of full-rank structures without shared parameters, against dense's.

    The exponent is minus the slope of log loss over log compute. Value: (mean over structures − dense) / dense. The
    spread over structures holds their own noise; that of dense comes from its seeds (delta method, Satterthwaite).
    `rungs` are places among the common rungs; all by default.
    """
    dense = parse_structure("dense")
    chosen = range(len(study.common_rungs)) if rungs is None else rungs
    common = [list(study.common_rungs.items())[place] for place in chosen]
    log_compute = np.log(np.array([budget for _, budget in common]))
    line = (log_compute - log_compute.mean()) / np.sum((log_compute - log_compute.mean()) ** 2)

    def exponent(item: Structure) -> float:
        return -float(np.array(study.common_log_losses(item))[list(chosen)] @ line)

    others = [item for item, row in study.exponents.items() if item != dense and row["ω"] == 0 and row["1 − ψ"] == 0]
    own, values = exponent(dense), [exponent(item) for item in others]
    fitted = study.surfaces[dense]
    weights = np.zeros((1, len(fitted.minima)))
    for (rung, _), weight in zip(common, line, strict=True):
        weights[0, fitted.at(rung) or 0] = weight
    variance = noise_of(levels_of(study.observations)).of_contrasts(fitted.part(dense, weights))
    if variance is None or len(values) < 2:
        raise ValueError("no two structures, or one seed")
    mean = statistics.fmean(values)
    parts = [statistics.variance(values) / len(values) / own**2, float(variance[0][0]) * (mean / own**2) ** 2]
    degrees = [len(values) - 1, float(variance[1][0])]
    whole = sum(parts)
    freedom = whole**2 / sum(part**2 / degree for part, degree in zip(parts, degrees, strict=True))
    how = f"{len(values)} structures against dense, t with {freedom:.0f} degrees of freedom"
    return StudentEstimate(mean / own - 1, whole**0.5, freedom, how)
