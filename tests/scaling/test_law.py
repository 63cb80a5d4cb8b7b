"""Scaling laws: compared with scipy's own robust fit and with the truth; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from einsearch_cli.errors import FitError
from einsearch_cli.scaling.law import LossCurve, fit_laws
from einsearch_cli.scaling.noise import noise_of
from einsearch_cli.scaling.observations import Observation, levels_of
from einsearch_cli.scaling.surface import surface

START = math.log(1e9)


def curve(losses, error: float = 0.003, factor: float = 4.0) -> LossCurve:
    x = START + math.log(factor) * np.arange(len(losses))
    return LossCurve(x, np.log(np.asarray(losses, dtype=float)), error**2 * np.eye(len(losses)), error**2)


def law_losses(floor: float, exponent: float, rungs: int, gain: float = 1.0) -> np.ndarray:
    return floor + (gain * 4.0 ** np.arange(rungs)) ** -exponent


def test_exact_losses_give_back_their_law() -> None:
    laws = fit_laws({"a": curve(law_losses(0.5, 0.25, 5)), "b": curve(law_losses(0.5, 0.35, 5))})
    for name, exponent in (("a", 0.25), ("b", 0.35)):
        law = laws.law(name)
        assert (law.floor, law.exponent, law.scale) == pytest.approx((0.5, exponent, 1e9), rel=1e-3)
        assert law.exponent_low < exponent < law.exponent_high
    further = laws.predict("a", 1e9 * 4.0**6)
    assert further.loss == pytest.approx(0.5 + 4.0**-1.5, rel=1e-3)
    assert further.low < further.loss < further.high
    assert further.decades_beyond == pytest.approx(2 * math.log10(4))
    assert laws.predict("a", 1e10).decades_beyond == 0


def test_the_fit_agrees_with_scipy() -> None:
    source = np.random.default_rng(1)
    for floor in (0.0, 0.4, 1.5):
        noisy = curve(law_losses(floor, 0.3, 6) * np.exp(0.004 * source.standard_normal(6)), 0.004)

        def residuals(p, noisy=noisy):
            return (np.log(p[0] + np.exp(p[1] - p[2] * (noisy.log_compute - START))) - noisy.log_losses) / 0.004

        theirs = least_squares(
            residuals,
            [0.5 * floor + 0.1, 0.0, 0.2],
            bounds=([0, -9, 1e-3], [9, 9, 3]),
            loss="soft_l1",
            xtol=1e-14,
            ftol=1e-14,
        ).x
        law = fit_laws({"a": noisy}).law("a")
        assert (law.floor, law.exponent) == pytest.approx((theirs[0], theirs[2]), rel=2e-3, abs=2e-4)
        assert law.scale == pytest.approx(math.exp(START + theirs[1] / theirs[2]), rel=2e-2)


def test_intervals_cover_the_law_that_the_losses_come_from() -> None:
    source, found = np.random.default_rng(2), []
    for _ in range(40):
        noisy = curve(law_losses(0.5, 0.25, 6) * np.exp(0.004 * source.standard_normal(6)), 0.004)
        laws = fit_laws({"a": noisy})
        law, further = laws.law("a"), laws.predict("a", 1e9 * 4.0**7)
        truth = (0.5 + 4.0 ** (-7 / 4)) * math.exp(0.004 * source.standard_normal())
        pairs = (law.exponent_low, 0.25, law.exponent_high), (law.floor_low, 0.5, law.floor_high)
        found.append([low <= true <= high for low, true, high in (*pairs, (further.low, truth, further.high))])
    assert all(0.85 <= share <= 1.0 for share in np.mean(found, axis=0))
    assert 0.90 <= np.mean(found) <= 0.995


def test_a_prediction_is_of_one_run_and_not_of_the_mean_of_many() -> None:
    """Losses are means of ten seeds; the predicted run has the noise of one."""
    source, inside = np.random.default_rng(5), []
    for _ in range(60):
        means = curve(law_losses(0.5, 0.25, 6) * np.exp(0.004 * source.standard_normal(6)), 0.004)
        means = replace(means, run_variance=10 * 0.004**2)
        found = fit_laws({"a": means}).predict("a", 1e9 * 4.0**5)
        one = (0.5 + 4.0 ** (-5 / 4)) * math.exp(math.sqrt(10) * 0.004 * source.standard_normal())
        inside.append((found.low <= one <= found.high, one < found.low, one > found.high))
    covered, below, above = np.mean(inside, axis=0)
    assert 0.86 <= covered <= 1.0
    assert max(below, above) <= 0.1, "neither side is missed more often"


def test_residuals_that_are_too_large_widen_the_intervals() -> None:
    off = np.array([1, -1, 1, -1, 1, -1, 1, -1])
    fine, rough = (
        fit_laws({"a": curve(law_losses(0.5, 0.25, 8) * (1 + size * off))}).law("a") for size in (1e-6, 4e-3)
    )
    assert rough.exponent_high - rough.exponent_low > 1.2 * (fine.exponent_high - fine.exponent_low)


def test_a_crossover_is_found_with_its_interval() -> None:
    laws = fit_laws({"flat": curve(0.9 * law_losses(0.0, 0.2, 5)), "steep": curve(law_losses(0.0, 0.25, 5))})
    found = laws.crossover("flat", "steep")
    assert found.compute == pytest.approx(1e9 * 0.9**-20, rel=1e-3)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.compute < found.high
    parallel = fit_laws({"a": curve(law_losses(0.5, 0.25, 5)), "b": curve(law_losses(0.5, 0.25, 5, gain=4.0))})
    with pytest.raises(FitError, match="a and b do not cross within 2 decades of the runs: b stays ahead"):
        parallel.crossover("a", "b", decades=2)


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([1.0, 0.7], "a: 2 rungs, and a scaling law needs 4"),
        ([1.0, 0.7, math.nan, 0.4], "a: the loss of rung 3 is not a positive number"),
        ([0.7, 0.701, 0.699, 0.7], "a: the losses of the first and the last rung differ by 0.0%, no more than noise"),
        ([0.7, 0.6, 0.65, 0.5], "a: the loss rises from rung 2 to rung 3 by 8.3%"),
        (
            law_losses(0.3, 0.25, 6) * [1, 1, 1, 0.93, 1, 1],
            "the losses do not follow a scaling law; that of rung 4 lies off",
        ),
        ([1.0, 0.995, 0.991, 0.985], "with a 95% interval of .* that says nothing"),
    ],
)
def test_what_no_law_can_be_fitted_to_is_refused_by_name(losses, problem: str) -> None:
    with pytest.raises(FitError, match=f"{problem}.*\n?.*\ntry: "):
        fit_laws({"a": curve(losses)}).law("a")


def test_a_curve_comes_from_the_minima_of_a_study() -> None:
    source = np.random.default_rng(3)
    runs = [
        Observation(
            structure="a", rung=rung, width=width, seed=seed, budget=4.0**rung, compute=4.0**rung, total=4.0**rung,
            loss=float(4.0 ** (-rung / 4) * math.exp(0.3 * math.log(width / 100) ** 2 + 0.004 * source.standard_normal())),
        )
        for rung in range(5) for width in (70, 100, 140) for seed in range(3)
    ]  # fmt: skip
    levels = levels_of(runs)
    found = LossCurve.of_surface("a", surface(levels["a"]), noise_of(levels))
    assert fit_laws({"a": found}).law("a").exponent == pytest.approx(0.25, rel=0.1)
    single = levels_of([run for run in runs if run.seed == 0])
    with pytest.raises(FitError, match="losses of one seed each"):
        LossCurve.of_surface("a", surface(single["a"]), noise_of(single))
