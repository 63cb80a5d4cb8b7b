"""Verdicts: planted effects are found, null effects are called at the nominal rate, intervals and p values agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from benchmarks.claims.inference import Claim, DrawnEstimate, StudentEstimate, of_replicates, of_slope, of_units
from einsearch_cli.scaling.many import holm

ABOVE, BELOW = Claim("above"), Claim("below")
NEAR = Claim("within", 0.1)
STUDIES = 4000


def called(claim: Claim, truth: float, noise: float, seeds: int = 3) -> dict[str, float]:
    """How often each verdict comes out."""
    drawn = np.random.default_rng(1).normal(truth, noise, size=(STUDIES, seeds))
    found = [of_replicates(values, "seeds") for values in drawn.tolist()]
    words = [claim.verdict(item, claim.p(item)) for item in found]
    return {word: words.count(word) / STUDIES for word in ("holds", "does not hold", "cannot tell")}


@pytest.mark.parametrize("claim", [ABOVE, BELOW])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_an_effect_19_of_20_studies_cannot_tell(claim: Claim, seeds: int) -> None:
    rates = called(claim, truth=0.0, noise=1.0, seeds=seeds)
    for word in ("holds", "does not hold"):
        assert rates[word] == pytest.approx(0.025, abs=0.009)


def test_a_planted_effect_is_found_and_its_contrary_refuted() -> None:
    assert called(ABOVE, truth=1.0, noise=0.1)["holds"] > 0.95
    assert called(BELOW, truth=1.0, noise=0.1)["does not hold"] > 0.95


def test_equivalence_needs_evidence_and_is_wrong_at_the_nominal_rate() -> None:
    assert called(NEAR, truth=0.0, noise=0.01)["holds"] > 0.95
    assert called(NEAR, truth=0.0, noise=1.0)["holds"] < 0.01, "a small study cannot confirm that nothing is there"
    at_the_margin = called(NEAR, truth=0.1, noise=0.01)
    assert at_the_margin["holds"] == pytest.approx(0.025, abs=0.009)
    assert at_the_margin["does not hold"] == pytest.approx(0.025, abs=0.009)
    assert called(NEAR, truth=0.3, noise=0.03)["does not hold"] > 0.95


def test_holm_keeps_the_rate_of_a_study_with_many_rows() -> None:
    drawn = np.random.default_rng(2).normal(size=(1000, 8, 3))
    wrong = 0
    for study in drawn.tolist():
        found = [of_replicates(values, "seeds") for values in study]
        adjusted = holm([ABOVE.p(item) for item in found])
        wrong += any(ABOVE.verdict(item, p) != "cannot tell" for item, p in zip(found, adjusted, strict=True))
    assert wrong / 1000 == pytest.approx(0.05, abs=0.02)


numbers = st.floats(-3, 3, allow_nan=False)
estimates = st.builds(StudentEstimate, numbers, st.floats(0.01, 2), st.integers(1, 100), st.just(""))


@settings(max_examples=200, deadline=None)
@given(estimates, st.sampled_from([ABOVE, BELOW, NEAR, Claim("within", 1.0)]))
def test_an_unadjusted_verdict_is_what_the_interval_says(found: StudentEstimate, claim: Claim) -> None:
    said = claim.verdict(found, 0.0) != "cannot tell"
    p = claim.p(found)
    if abs(p - 0.05) > 1e-6:
        assert said == (p < 0.05)
    assert claim.verdict(found, 0.05) == "cannot tell"
    mirrored = StudentEstimate(-found.value, found.error, found.degrees, "")
    other = {"above": BELOW, "below": ABOVE, "within": claim}[claim.kind]
    assert other.verdict(mirrored, 0.0) == claim.verdict(found, 0.0)
    assert other.p(mirrored) == pytest.approx(p)


@settings(max_examples=50, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=8, unique=True))
def test_intervals_are_those_of_scipy(values: list[float]) -> None:
    found = of_replicates(values, "seeds")
    wanted = stats.ttest_1samp(values, 0.0)
    if found.error < 1e-6:
        return
    low, high = wanted.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    assert ABOVE.p(found) == pytest.approx(wanted.pvalue, rel=1e-6, abs=1e-9)


def test_slopes_are_those_of_scipy() -> None:
    x, y = [0.5, 0.5, 0.75, 1.0, 1.0], [0.1, 0.3, 0.2, 0.5, 0.4]
    found, wanted = of_slope(x, y, "structures"), stats.linregress(x, y)
    assert (found.value, found.error) == pytest.approx((wanted.slope, wanted.stderr))
    assert ABOVE.p(found) == pytest.approx(wanted.pvalue)
    with pytest.raises(ValueError, match="2 structures: a slope with an interval needs more of them"):
        of_slope([0.5, 1.0], [0.0, 1.0], "structures")


def test_draws_give_percentiles_and_a_permutation_replaces_their_p() -> None:
    draws = np.arange(-10, 990) / 100
    found = DrawnEstimate(4.9, draws, "")
    assert (found.low, found.high) == pytest.approx((np.quantile(draws, 0.025), np.quantile(draws, 0.975)))
    assert ABOVE.p(found) == pytest.approx(2 * 12 / 1001)
    assert ABOVE.p(DrawnEstimate(4.9, draws, "", p_zero=0.2)) == pytest.approx(0.2)
    assert Claim("within", 20).p(DrawnEstimate(4.9, draws, "", p_zero=0.2)) == pytest.approx(2 / 1001)


def test_seeds_are_the_sample_and_structures_only_where_there_is_one_seed() -> None:
    seeds = of_units([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]], "structures")
    assert seeds is not None
    assert seeds == of_replicates([2.0, 3.0, 4.0], "seeds")
    one = of_units([[1.0, 3.0], []], "structures")
    assert one is not None
    assert one.how == "2 structures of one seed, t with 1 degree of freedom"
    assert of_units([[1.0]], "structures") is None
    assert of_units([], "structures") is None
