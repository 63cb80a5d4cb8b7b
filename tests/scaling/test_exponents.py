"""Relations of exponents and losses, compared with a slow reference and with known truths."""

import math
import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from einsearch_cli.scaling.exponents import ExponentEffects, exponent_effects

BUDGETS = {0: 1e9, 1: 1e10, 2: 1e11}


def drawn(count: int, seed: int, noise: float = 0.02) -> tuple[list[dict[str, float]], list[list[float]]]:
    """Structures whose log loss rises by 0.3 with ω, and by 0.5 with ν at first, 0.2 less per decade of compute."""
    draw = random.Random(seed)
    rows = [{"ω": draw.randint(0, 4) / 4, "ν": draw.randint(0, 6) / 6, "bond": 0.0} for _ in range(count)]
    losses = [
        [0.3 * row["ω"] + (0.5 - 0.2 * rung) * row["ν"] - rung + draw.gauss(0, noise) for rung in range(3)]
        for row in rows
    ]
    return rows, losses


def test_slopes_and_correlations_are_those_of_the_plain_formulas() -> None:
    rows, losses = drawn(24, seed=1)
    found = exponent_effects(rows, losses, BUDGETS)
    assert found is not None
    design = np.array([[1, row["ω"], row["ν"]] for row in rows])
    for rung in found.rungs:
        y = np.array(losses)[:, rung.rung]
        normal = np.linalg.solve(design.T @ design, design.T @ y)
        assert [effect.exponent for effect in rung.effects] == ["ω", "ν"]
        assert [effect.slope for effect in rung.effects] == pytest.approx(normal[1:])
        for effect in rung.effects:
            wanted = spearmanr([row[effect.exponent] for row in rows], y)
            assert (effect.correlation, effect.correlation_p) == pytest.approx((wanted.statistic, wanted.pvalue))
        assert rung.explained == pytest.approx(1 - (y - design @ normal).var() / y.var())
    slopes = [rung.effects[1].slope for rung in found.rungs]
    assert found.trends[1].per_decade == pytest.approx((slopes[2] - slopes[0]) / 2)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """95% intervals over 24 structures; resampling this few is a little overconfident."""
    held = {"slope": 0, "trend": 0}
    for seed in range(60):
        found = exponent_effects(*drawn(24, seed, noise=0.1), BUDGETS)
        assert found is not None
        omega = found.rungs[0].effects[0]
        held["slope"] += omega.slope_low <= 0.3 <= omega.slope_high
        held["trend"] += found.trends[1].low <= -0.2 <= found.trends[1].high
    assert 50 <= held["slope"] <= 60
    assert 50 <= held["trend"] <= 60


def test_it_is_read_back_and_repeats() -> None:
    found = exponent_effects(*drawn(12, seed=2), BUDGETS)
    assert found is not None
    assert ExponentEffects.from_json(found.to_json()) == found == exponent_effects(*drawn(12, seed=2), BUDGETS)


@pytest.mark.parametrize("count", [0, 9])
def test_few_structures_say_nothing(count: int) -> None:
    assert exponent_effects(*drawn(count, seed=0), BUDGETS) is None


def test_dependent_exponents_have_no_separate_effects() -> None:
    rows = [{"ω": number / 12, "ν": 1 - number / 12} for number in range(12)]
    assert exponent_effects(rows, [[math.sin(number)] for number in range(12)], {0: 1e9}) is None


def test_equal_exponents_say_nothing() -> None:
    rows = [{"ω": 0.0, "ν": 0.5}] * 12
    assert exponent_effects(rows, [[float(number)] for number in range(12)], {0: 1e9}) is None
