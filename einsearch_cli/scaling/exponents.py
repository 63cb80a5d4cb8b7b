"""Test whether the exponents of a structure predict its loss: rank correlations and a joint fit, with intervals.

The sample here is the structures, so intervals come from drawing structures with replacement (Efron 1979). The
structures of a study are not drawn at random, so their exponents are correlated: a coefficient describes this set of
structures only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from einsearch_cli.scaling.noise import Floats
from einsearch_cli.structures.record import Record

LEAST_STRUCTURES = 10
"""The fewest structures; fewer say nothing about four exponents."""
_DRAWS = 2000
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentEffect(Record):
    """How log loss changes with one exponent at one rung."""

    exponent: str
    """`ω`, `1 − ψ`, `ν` or `bond`."""
    correlation: float
    """Spearman's rank correlation with the loss; above 0, a larger exponent goes with a larger loss."""
    correlation_low: float
    """Low end of its 95% interval over structures."""
    correlation_high: float
    """High end of that interval."""
    correlation_p: float
    """Two-sided p of this correlation alone."""
    slope: float
    """Change of log loss per unit of the exponent, with all others fixed: 0.1 is 10% more loss."""
    slope_low: float
    """Low end of its 95% interval over structures."""
    slope_high: float
    """High end of that interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RungEffects(Record):
    """The relation of exponents and loss at one rung."""

    rung: int
    """Number of the rung; 0 is the study's cheapest."""
    budget_flops: float
    """Training FLOPs of a run."""
    structures: int
    """Number of structures compared."""
    explained: float
    """Share of the in-sample variance of log loss that the joint fit explains."""
    effects: tuple[ExponentEffect, ...]
    """One effect for each exponent that varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectTrend(Record):
    """How the slope of an exponent changes with compute."""

    exponent: str
    """The exponent: `ω`, `1 − ψ`, `ν` or `bond`."""
    per_decade: float
    """Change of the slope when compute grows tenfold."""
    low: float
    """Low end of its 95% interval over structures."""
    high: float
    """High end of that interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentEffects(Record):
    """The relation of the exponents of a study's structures to their losses."""

    rungs: tuple[RungEffects, ...]
    """Effects at every rung, cheapest first."""
    trends: tuple[EffectTrend, ...]
    """One trend for each exponent; empty with one rung."""


def exponent_effects(
    exponents: Sequence[Mapping[str, float]], log_losses: Sequence[Sequence[float]], budgets: Mapping[int, float]
) -> ExponentEffects | None:
    """Correlations and joint fits at every rung; None for fewer than ten structures, or if no exponent varies.

    Args:
        exponents: the exponents of each structure, by name; all have the same names.
        log_losses: the log losses of each structure; all structures were trained at all rungs.
        budgets: training FLOPs of a run, by rung, cheapest first.

    The fit is log loss = a + Σ b_k x_k by least squares at each rung. The trend of b_k is the slope of a straight line
    through it over the logarithm of compute.

    >>> rows = [{"ω": 0.0, "ν": nu / 9} for nu in range(10)]
    >>> found = exponent_effects(rows, [[0.5 * row["ν"], 0.3 * row["ν"]] for row in rows], {0: 1e9, 1: 1e10})
    >>> [(effect.exponent, round(effect.slope, 3)) for rung in found.rungs for effect in rung.effects]
    [('ν', 0.5), ('ν', 0.3)]
    >>> round(found.trends[0].per_decade, 3)
    -0.2
    """
    names = [name for name in (exponents[0] if exponents else ()) if len({row[name] for row in exponents}) > 1]
    if len(exponents) < LEAST_STRUCTURES or not names:
        return None
    x_SK = np.array([[row[name] for name in names] for row in exponents])
    y_SR = np.array(log_losses)
    slopes_KR = _fit(x_SK, y_SR)
    if slopes_KR is None:
        return None
    draws_DS = np.random.default_rng(_SEED).integers(len(x_SK), size=(_DRAWS, len(x_SK)))
    drawn = [_fit(x_SK[chosen], y_SR[chosen]) for chosen in draws_DS]
    slopes_DKR = np.stack([slopes_KR for slopes_KR in drawn if slopes_KR is not None])
    lows_KR, highs_KR = np.quantile(slopes_DKR, [0.025, 0.975], axis=0)
    rungs = tuple(
        RungEffects(
            rung=rung,
            budget_flops=budget,
            structures=len(x_SK),
            explained=_explained(x_SK, y_SR[:, r], slopes_KR[:, r]),
            effects=tuple(
                ExponentEffect(
                    exponent=name,
                    **_correlation(x_SK[:, k], y_SR[:, r], draws_DS),
                    slope=float(slopes_KR[k, r]),
                    slope_low=float(lows_KR[k, r]),
                    slope_high=float(highs_KR[k, r]),
                )
                for k, name in enumerate(names)
            ),
        )
        for r, (rung, budget) in enumerate(budgets.items())
    )
    return ExponentEffects(rungs=rungs, trends=_trends(names, slopes_KR, slopes_DKR, list(budgets.values())))


def _fit(x_SK: Floats, y_SR: Floats) -> Floats | None:
    """Slopes of every exponent at every rung; None if the exponents of these structures are linearly dependent."""
    centred_SK = x_SK - x_SK.mean(axis=0)
    slopes_KR, _, rank, _ = np.linalg.lstsq(centred_SK, y_SR - y_SR.mean(axis=0), rcond=1e-9)
    return slopes_KR if rank == x_SK.shape[1] else None


def _explained(x_SK: Floats, y_S: Floats, slopes_K: Floats) -> float:
    centred_S = y_S - y_S.mean()
    left_S = centred_S - (x_SK - x_SK.mean(axis=0)) @ slopes_K
    return float(1 - (left_S @ left_S) / (centred_S @ centred_S))


def _correlation(x_S: Floats, y_S: Floats, draws_DS: np.ndarray) -> dict[str, float]:
    from scipy.stats import rankdata, spearmanr  # takes 1 s to import; needed only for reports

    found: Any = spearmanr(x_S.tolist(), y_S.tolist())
    x_DS, y_DS = rankdata(x_S[draws_DS], axis=1), rankdata(y_S[draws_DS], axis=1)
    x_DS, y_DS = x_DS - x_DS.mean(axis=1, keepdims=True), y_DS - y_DS.mean(axis=1, keepdims=True)
    sizes_D = np.sqrt((x_DS**2).sum(axis=1) * (y_DS**2).sum(axis=1))
    drawn_D = (x_DS * y_DS).sum(axis=1)[sizes_D > 0] / sizes_D[sizes_D > 0]
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return {
        "correlation": float(found.statistic),
        "correlation_low": float(low),
        "correlation_high": float(high),
        "correlation_p": float(found.pvalue),
    }


def _trends(
    names: Sequence[str], slopes_KR: Floats, slopes_DKR: Floats, budgets: Sequence[float]
) -> tuple[EffectTrend, ...]:
    if len(budgets) < 2:
        return ()
    decades_R = np.array([math.log10(budget) for budget in budgets])
    decades_R = decades_R - decades_R.mean()
    line_R = decades_R / (decades_R @ decades_R)
    lows_K, highs_K = np.quantile(slopes_DKR @ line_R, [0.025, 0.975], axis=0)
    return tuple(
        EffectTrend(
            exponent=name, per_decade=float(slopes_KR[k] @ line_R), low=float(lows_K[k]), high=float(highs_K[k])
        )
        for k, name in enumerate(names)
    )
