"""Regressions of loss on the exponents find planted slopes, and report absent ones at the nominal rate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.claims import taxonomy
from benchmarks.claims.document import all_rows
from benchmarks.claims.inference import Claim
from benchmarks.claims.studies import Store
from benchmarks.claims.taxonomy import (
    Sample,
    correlations,
    exponent_differences,
    freedman_lane,
    joint_slopes,
    nu_slope,
    slope_trend,
)
from einsearch_cli.reports import StudyReport, write_results
from einsearch_cli.scaling import rank_candidates
from einsearch_cli.scaling.exponents import exponent_effects
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult

BUDGETS = (1e9, 1e10, 1e11)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taxonomy, "DRAWS", 400)


def sample(seed: int, slopes: dict[str, float], fading: float = 0.0, noise: float = 0.03, count: int = 24) -> Sample:
    """Structures with random exponents; ν's slope changes by `fading` a decade."""
    draw = np.random.default_rng(seed)
    rows = [
        {"ω": float(a), "1 − ψ": float(b), "ν": float(c), "bond": float(d)}
        for a, b, c, d in zip(
            draw.choice([0, 0, 0.25, 0.5], count), draw.choice([0, 0, 0.25, 0.5], count),
            draw.choice([0.5, 0.66, 0.75, 1], count), draw.choice([0, 0.25, 0.33], count), strict=True,
        )
    ]  # fmt: skip
    losses = [
        [
            sum(slopes.get(k, 0) * v for k, v in row.items()) + r * (fading * row["ν"] - 0.7) + draw.normal(0, noise)
            for r in range(3)
        ]
        for row in rows
    ]
    dense = str(parse_structure("dense"))
    names = (dense, *map(str, range(1, count)))
    return Sample(names, tuple(rows), np.array(losses), BUDGETS, inner=(True,) * count, ends=(0.0,) * 3)


def test_planted_slopes_are_found_and_a_fading_one_fades() -> None:
    found = sample(0, {"ω": 0.3, "1 − ψ": 0.5, "ν": 0.4}, fading=-0.2)
    for name, truth in (("ω", 0.3), ("1 − ψ", 0.5)):
        for estimate in joint_slopes(found)[name]:
            assert estimate.value == pytest.approx(truth, abs=0.12)
            assert Claim("above").verdict(estimate, Claim("above").p(estimate)) == "holds"
    fading = slope_trend(found, "ν")
    assert fading.value == pytest.approx(-0.2, abs=0.06)
    assert Claim("below").verdict(fading, Claim("below").p(fading)) == "holds"


def test_slopes_are_those_of_the_report() -> None:
    drawn = sample(1, {"ω": 0.3})
    effects = exponent_effects(drawn.exponents, drawn.log_losses.tolist(), dict(enumerate(BUDGETS)))
    assert effects is not None
    found = joint_slopes(drawn)
    for rung in effects.rungs:
        for effect in rung.effects:
            assert found[effect.exponent][rung.rung].value == pytest.approx(effect.slope)
    assert slope_trend(drawn, "ν").value == pytest.approx(effects.trends[2].per_decade)


def test_null_slopes_are_called_in_5_of_100_studies() -> None:
    claim, wrong, ps = Claim("above"), 0, []
    for seed in range(150):
        drawn = sample(seed, {"ν": 0.4})
        ps.append(freedman_lane(drawn.x_SK, drawn.log_losses[:, 0], 0))
        if seed < 60:
            estimate = joint_slopes(drawn)["ω"][0]
            wrong += claim.verdict(estimate, claim.p(estimate)) != "cannot tell"
    assert wrong <= 6
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.045)
    assert stats.kstest(ps, "uniform").pvalue > 0.01


def test_the_permutation_test_is_the_slow_one_over_all_permutations() -> None:
    x, y = np.array([0.0, 0.1, 0.4, 0.5, 0.9, 1.0]), np.array([0.1, 0.0, 0.5, 0.2, 0.4, 0.6])
    every = [abs(stats.pearsonr(x, order)[0]) for order in itertools.permutations(y)]
    wanted = np.mean(np.array(every) >= abs(stats.pearsonr(x, y)[0]) - 1e-12)
    assert freedman_lane(x[:, None], y, 0) == pytest.approx(wanted, abs=0.03)


def test_exponents_that_hang_together_are_told_apart_as_least_squares_does() -> None:
    draw = np.random.default_rng(5)
    first = draw.normal(size=20)
    second = first + draw.normal(0, 0.7, size=20)
    y = second + draw.normal(0, 0.8, size=20)
    design = np.stack([np.ones(20), first, second], axis=1)
    beta, squares = np.linalg.lstsq(design, y, rcond=None)[:2]
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * squares[0] / 17)
    for k in (0, 1):
        wanted = 2 * stats.t.sf(abs(beta[k + 1] / errors[k + 1]), 17)
        assert freedman_lane(design[:, 1:], y, k) == pytest.approx(wanted, abs=0.05)


def test_correlations_are_those_of_scipy() -> None:
    drawn = sample(2, {"ω": 0.3})
    found = correlations(drawn, "ω", 2)
    x, y = [row["ω"] for row in drawn.exponents], drawn.log_losses[:, 2]
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found["spearman_low"] < found["spearman"] < found["spearman_high"]
    assert found["p"] == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.03)


def test_nu_is_judged_among_full_rank_structures_without_sharing() -> None:
    drawn = sample(3, {"ν": 0.05, "ω": 5.0, "1 − ψ": 5.0}, noise=0.002, count=60)
    full = drawn.full()
    assert all(row["ω"] == 0 and row["1 − ψ"] == 0 for row in full.exponents)
    assert 5 < len(full.names) < 60
    found, claim = nu_slope(full, 0), Claim("within", 0.1)
    assert found.value == pytest.approx(0.05, abs=0.01)
    assert claim.verdict(found, claim.p(found)) == "holds"
    strong = nu_slope(sample(3, {"ν": 0.5}, noise=0.002, count=60).full(), 0)
    assert claim.verdict(strong, claim.p(strong)) == "does not hold"
    assert len(drawn.without_dense().names) == 59


def test_the_slope_of_nu_does_not_hold_the_price_of_bonds() -> None:
    drawn = sample(4, {"ν": 0.05, "bond": 1.0}, noise=0.002, count=60).full()
    with_price = replace(drawn, exponents=tuple({**row, "ν": row["ν"] + row["bond"]} for row in drawn.exponents))
    losses = np.array([[0.05 * row["ν"] + row["bond"]] * 3 for row in with_price.exponents])
    tied = replace(with_price, log_losses=losses + np.random.default_rng(0).normal(0, 0.002, losses.shape))
    assert nu_slope(tied).value == pytest.approx(0.05, abs=0.01)
    assert nu_slope(tied, hold_bond=False).value > 0.3
    assert nu_slope(tied).degrees == len(tied.names) - 3


def power_laws(
    exponents: dict[str, float],
    best: Mapping[str, int] = {},
    at: Collection[int] = range(3),
    apart: Mapping[str, float] = {"btt:r=d^1/4": 0.2},
) -> StudyReport:
    """A study whose structures follow power laws, with noise of 0.2%; the best width is 128, or as given at some rungs.

    `apart` are differences of log loss at every rung.
    """
    draw, results = random.Random(0), []
    for text, exponent in exponents.items():
        for rung, width, seed in itertools.product(range(3), (64, 128, 256), range(3)):
            budget = 1e10 * 4.0**rung
            loss = (
                (budget / 1e10) ** -exponent
                * (1 + 0.1 * (width != (best.get(text, 128) if rung in at else 128)))
                * math.exp(draw.gauss(0, 0.002) + apart.get(text, 0.0))
            )
            trial = Trial(parse_structure(text), width, seed, rung, budget)
            results.append(TrialResult(trial, "ok", loss, width**2, budget, budget, 500, 1.0, (), None, tokens=1e6))
    ranking = rank_candidates(results, parse_structure("dense"))
    return StudyReport(title="t", task="teacher", budget_flops=1.6e11, results=tuple(results), ranking=ranking)


FULL = ("monarch", "(1/3|0|2/3|0|2/3|1/3|0)", "(1/4|0|3/4|0|3/4|1/4|0)")


@pytest.mark.parametrize(("exponent", "verdict"), [(0.3, "holds"), (0.5, "does not hold")])
def test_exponents_of_laws_are_compared_with_denses(exponent: float, verdict: str) -> None:
    study = power_laws({"dense": 0.3, "low-rank": 0.9, **dict.fromkeys(FULL, exponent)})
    found, claim = exponent_differences(study), Claim("within", 0.1)
    assert found.value == pytest.approx(exponent / 0.3 - 1, abs=0.02)
    assert claim.verdict(found, claim.p(found)) == verdict


def test_rows_of_a_study_of_the_taxonomy(tmp_path: Path) -> None:
    texts = (
        "dense",
        "low-rank",
        "low-rank:r=d^3/4",
        "kronecker",
        "tt:r=d^1/4",
        *FULL,
        *("monarch:blocks=d^1/3", "btt:r=d^1/4"),
    )
    study = power_laws(dict.fromkeys(texts, 0.3))
    folder = tmp_path / "examples/reproduction/taxonomy-text"
    folder.mkdir(parents=True)
    write_results(folder / "results.json", study)
    rows, rungs = all_rows(Store(tmp_path))
    assert [row.key for row in rows] == [
        f"{name}-text" for name in ("omega", "psi", "nu", "omega-trend", "psi-trend", "nu-trend", "laws")
    ]
    words = {row.key: row.verdict for row in rows}
    assert words["laws-text"] == words["nu-text"] == "holds"
    assert words["omega-text"] == words["psi-text"] == words["nu-trend-text"] == "cannot tell"
    assert len(rungs) == 3 * len({row["exponent"] for row in rungs})
    assert "0 are best at the narrowest width and 0 at the widest" in rows[0].scale


def test_a_margin_that_no_order_can_miss_decides_nothing(tmp_path: Path) -> None:
    texts = ("dense", "low-rank", "kronecker", "tt:r=d^1/4", *FULL, "monarch:blocks=d^1/3", "btt:r=d^1/4")
    for apart, flawed in (({}, True), ({"btt:r=d^1/4": 0.2}, False)):
        study = power_laws(dict.fromkeys(texts, 0.3), apart=apart)
        folder = tmp_path / str(flawed) / "examples/reproduction/taxonomy-text"
        folder.mkdir(parents=True)
        write_results(folder / "results.json", study)
        (found,) = (row for row in all_rows(Store(tmp_path / str(flawed)))[0] if row.key == "nu-text")
        assert ("no order of them could miss it" in found.flaw) == flawed
        assert (found.verdict == "cannot tell") == flawed


def test_a_best_width_at_the_end_of_the_grid_decides_nothing(tmp_path: Path) -> None:
    texts = (
        "dense",
        "low-rank",
        "low-rank:r=d^3/4",
        "kronecker",
        "tt:r=d^1/4",
        *FULL,
        "monarch:blocks=d^1/3",
        "btt:r=d^1/4",
    )
    for ends in (3, 5):
        study = power_laws(dict.fromkeys(texts, 0.3), best=dict.fromkeys(texts[:ends], 64))
        folder = tmp_path / str(ends) / "examples/reproduction/taxonomy-text"
        folder.mkdir(parents=True)
        write_results(folder / "results.json", study)
        for row in all_rows(Store(tmp_path / str(ends)))[0]:
            assert bool(row.flaw) == (ends == 5)
            assert (
                "50% of the structures is an end" in row.flaw or "rung by rung 50%, 50%, 50%" in row.flaw or ends == 3
            )
            assert not row.flaw or row.verdict == "cannot tell"
            assert f"{ends} are best at the narrowest width" in row.scale


def test_rungs_with_many_best_widths_at_an_end_are_left_out_of_trends(tmp_path: Path) -> None:
    texts = ("dense", "low-rank", "low-rank:r=d^3/4", "kronecker", "tt:r=d^1/4", *FULL, "btt:r=d^1/4")
    for at, flawed in (((0,), False), ((0, 1), True)):
        study = power_laws(dict.fromkeys(texts, 0.3), best=dict.fromkeys(texts[:5], 64), at=at)
        folder = tmp_path / str(len(at)) / "examples/reproduction/taxonomy-text"
        folder.mkdir(parents=True)
        write_results(folder / "results.json", study)
        rows, rungs = all_rows(Store(tmp_path / str(len(at))))
        trends = [row for row in rows if "trend" in row.key or row.key.startswith("laws")]
        assert len(trends) == 4
        assert {bool(row.flaw) for row in trends} == {flawed}
        assert not any(row.flaw for row in rows if row not in trends), "the last rung is wide enough"
        assert [row["at_ends"] > 1 / 3 for row in rungs[:3]] == [rung in at for rung in range(3)]
        slopes = next(row for row in trends if row.key == "omega-trend-text").control
        assert slopes.count("[") == (4 if flawed else 3), "of two rungs, and the change without dense"
