"""The parts of the statistics, each compared with scipy or a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from einsearch_cli.scaling.gains import log_compute_at
from einsearch_cli.scaling.many import Dunnett, holm, repeated
from einsearch_cli.scaling.noise import noise_of
from einsearch_cli.scaling.observations import Observation, levels_of
from einsearch_cli.scaling.surface import CHOSEN, surface


def observed(structure, width, seed, log_loss, *, rung=0, stage="main"):
    compute = 1e9 * 4.0**rung
    return Observation(
        structure=structure, rung=rung, width=width, seed=seed, loss=math.exp(log_loss), budget=compute, compute=compute,
        total=compute, stage=stage,
    )  # fmt: skip


def test_dunnett_agrees_with_scipy() -> None:
    source = np.random.default_rng(0)
    for k, n in ((2, 4), (6, 8), (12, 5)):
        control, groups = source.normal(size=n), source.normal(0.4, size=(k, n))
        theirs = stats.dunnett(*groups, control=control, random_state=1)
        family = Dunnett((0.5,) * k, (k + 1) * (n - 1))
        assert family.p_values(theirs.statistic) == pytest.approx(theirs.pvalue, abs=2e-3)
        assert family.p_values([family.critical]) == pytest.approx([0.05], abs=1e-6)


def test_dunnett_of_unequal_shares_holds_its_level() -> None:
    source, shares, degrees = np.random.default_rng(1), (0.2, 0.5, 0.8, 0.9), 12
    n = 100_000
    yardstick, scale = source.normal(size=n), np.sqrt(source.chisquare(degrees, n) / degrees)
    largest = np.zeros(n)
    for share in shares:
        largest = np.maximum(
            largest, np.abs(math.sqrt(share) * yardstick + math.sqrt(1 - share) * source.normal(size=n))
        )
    assert np.mean(largest / scale > Dunnett(shares, degrees).critical) == pytest.approx(0.05, abs=0.003)


def test_dunnett_of_one_comparison_is_students_t() -> None:
    assert Dunnett((0.5,), 9).critical == pytest.approx(stats.t.ppf(0.975, 9), rel=3e-3)


def test_bounds_over_looks_are_pococks() -> None:
    """Pocock 1977, table 1: equally spaced looks, 5% in all."""
    for count, bound in ((2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413)):
        assert repeated(stats.norm.ppf(0.975), tuple(range(1, count + 1))) == pytest.approx(bound, abs=2e-3)


def test_holm_agrees_with_the_definition() -> None:
    p = [0.001, 0.2, 0.012, 0.012, 0.9]
    assert holm(p) == pytest.approx([0.005, 0.4, 0.048, 0.048, 0.9])
    assert holm([]) == []


def test_a_surface_gives_back_its_own_minima() -> None:
    runs = [
        observed("a", width, seed, -0.3 * rung + 0.25 * math.log(width / best) ** 2, rung=rung)
        for rung, best in enumerate((80.0, 160.0, 300.0))
        for width in (round(best * 2 ** (0.5 * k + 0.2)) for k in (-1, 0, 1))
        for seed in range(2)
    ]
    found = surface(levels_of(runs)["a"])
    assert found.curvature == pytest.approx(0.25)
    assert found.log_losses == pytest.approx([0.0, -0.3, -0.6])
    assert [minimum.width for minimum in found.minima] == pytest.approx([80, 160, 300])
    assert all(minimum.reason is None for minimum in found.minima)


def test_near_a_floor_the_curvature_falls_with_the_slope() -> None:
    """A wrong width raises only the reducible part of the loss: one constant curvature would be off by up to 0.2% here."""
    widths = [(80.0 * 2**rung, [round(80 * 2 ** (rung + 0.5 * k + shift)) for k in (-1, 0, 1)]) for rung, shift in
              ((0, 0.24), (1, -0.24), (2, 0.24))]  # fmt: skip
    runs = [
        observed("a", width, seed, math.log(0.5 + 0.5 * 4.0 ** (-rung / 4) * width_loss), rung=rung)
        for rung, (best, grid) in enumerate(widths)
        for width in grid
        for width_loss in [math.exp(0.32 * math.log(width / best) ** 2)]
        for seed in range(2)
    ]
    found = surface(levels_of(runs)["a"])
    truth = [math.log(0.5 + 0.5 * 4.0 ** (-rung / 4)) for rung in range(3)]
    assert found.log_losses == pytest.approx(truth, abs=5e-4)


def test_the_variance_of_a_minimum_is_what_repetitions_show() -> None:
    source, found = np.random.default_rng(2), []
    for _ in range(400):
        runs = [
            observed("a", width, seed, 0.3 * math.log(width / 100) ** 2 + 0.01 * source.normal(), rung=rung)
            for rung in range(3)
            for width in (80, 113, 160)
            for seed in range(3)
        ]
        runs += [observed("a", width, 0, 1.0, rung=rung, stage="pilot") for rung in range(3) for width in (56, 226)]
        one = surface(levels_of(runs)["a"])
        found.append((*one.log_losses, *(math.log(minimum.width) for minimum in one.minima)))
    seen = np.std(found, axis=0)
    assert seen[:3] == pytest.approx(0.01 * np.sqrt(np.diag(one.covariance) / CHOSEN), rel=0.12)
    assert seen[3:] == pytest.approx([0.01 * minimum.width_error for minimum in one.minima], rel=0.12)


def test_compute_is_read_off_a_parabola_in_log_compute() -> None:
    log_c = np.array([0.0, 1.0, 2.0, 3.0])
    losses = np.array([[1.0, 0.6, 0.3, 0.1]])  # second differences of 0.1: a parabola
    law = np.polynomial.Polynomial.fit(log_c, losses[0], 2)
    for at in (0.3, 1.5, 2.2, 3.0, 3.3):
        assert log_compute_at(log_c, losses, np.array([law(at)])) == pytest.approx([at])
    assert log_compute_at(log_c[:2], losses[:, :2], np.array([0.8])) == pytest.approx([0.5])
    assert np.isnan(log_compute_at(log_c[:2], losses[:, 1::-1], np.array([0.8])))  # a rising loss


def seeds_of(spread, shared, source):
    """Runs of four structures, with the standard deviation of each and an effect that a seed has on all."""
    effects = shared * source.normal(size=(2, 3))
    return [
        observed(name, width, seed, effects[rung, seed] + deviation * source.normal(), rung=rung)
        for name, deviation in spread.items()
        for rung in range(2)
        for width in (64, 90, 128)
        for seed in range(3)
    ]


def test_noise_is_pooled_unless_structures_differ() -> None:
    equal = dict.fromkeys("abcd", 0.01)
    source = np.random.default_rng(3)
    found = [noise_of(levels_of(seeds_of(equal, 0.0, source))) for _ in range(200)]
    assert np.mean([noise.pooled.value for noise in found]) == pytest.approx(1e-4, rel=0.05)
    assert found[0].pooled.degrees == 48
    assert sum(bool(noise.own) for noise in found) <= 8
    assert sum(noise.seed is not None for noise in found) <= 8
    unequal = [noise_of(levels_of(seeds_of(equal | {"d": 0.06}, 0.0, source))) for _ in range(20)]
    assert all(noise.own for noise in unequal)
    assert np.mean([noise.of("d").value for noise in unequal]) == pytest.approx(0.06**2, rel=0.3)


def test_seeds_that_move_all_losses_are_taken_out() -> None:
    source = np.random.default_rng(4)
    found = [noise_of(levels_of(seeds_of(dict.fromkeys("abcd", 0.01), 0.05, source))) for _ in range(40)]
    paired = [noise for noise in found if noise.seed]
    assert len(paired) >= 38
    assert np.mean([noise.pooled.value for noise in paired]) == pytest.approx(1e-4, rel=0.15)
    assert np.mean([noise.seed.value for noise in paired]) == pytest.approx(0.05**2, rel=0.25)


def test_an_observation_needs_a_positive_loss() -> None:
    with pytest.raises(ValueError, match="the loss must be finite and above 0, found 0"):
        Observation(structure="a", rung=0, width=1, seed=0, loss=0.0, budget=1, compute=1, total=1)
