import math
import random

import pytest

from einsearch_cli.scaling import compute_gain, frontier, gain_between, levels_of, t_interval
from einsearch_cli.scaling.intervals import resamples
from einsearch_cli.structures import parse_structure

DENSE, MONARCH = parse_structure("dense"), parse_structure("monarch")
BUDGETS = (1e9, 3e9, 9e9, 27e9)


def power_law(compute, exponent=0.3, gain=1.0):
    """L = (C·gain / 1e9)^-a: needs 1/gain of the compute of gain 1."""
    return math.pow(compute * gain / 1e9, -exponent)


@pytest.mark.parametrize("true_gain", [2.0, 0.5, 1.0, 7.5])
@pytest.mark.parametrize("exponent", [0.05, 0.3, 1.2])
def test_known_gain_between_power_laws(true_gain, exponent):
    dense = frontier([(c, power_law(c, exponent)) for c in BUDGETS])
    other = frontier([(c, power_law(c, exponent, true_gain)) for c in BUDGETS])
    assert gain_between(other, dense).value == pytest.approx(true_gain, rel=1e-6)
    assert gain_between(dense, other).value == pytest.approx(1 / true_gain, rel=1e-6)


def test_gain_is_read_at_the_lowest_common_loss():
    dense = frontier([(1e9, 0.8), (1e10, 0.4)])
    assert gain_between(frontier([(1e9, 0.6), (1e10, 0.2)]), dense).at_loss == 0.4
    assert gain_between(frontier([(1e9, 0.9), (1e10, 0.5)]), dense).at_loss == 0.5


def test_one_budget_on_the_curve_of_dense_is_enough():
    dense = frontier([(1e9, 0.8), (1e11, 0.2)])
    assert gain_between(frontier([(1e9, 0.4)]), dense).value == pytest.approx(10.0)


def test_no_overlap_gives_a_measured_bound_and_no_value():
    dense = frontier([(1e9, 0.8), (1e10, 0.4)])
    better = gain_between(frontier([(1e9, 0.3)]), dense)
    assert (better.value, better.at_least, better.at_most) == (None, 10.0, None)
    assert "already better with its smallest budget" in (better.reason or "")
    worse = gain_between(frontier([(1e9, 0.9), (1e10, 0.85)]), dense)
    assert (worse.value, worse.at_least, worse.at_most) == (None, None, 0.1)
    assert "yardstick is already better" in (worse.reason or "")


def test_frontier_without_points_gives_a_reason():
    curve = frontier([(1e9, 0.8)])
    assert "no finished run" in (gain_between(frontier([]), curve).reason or "")
    assert "yardstick has no finished run" in (gain_between(curve, frontier([(1e9, 0.0)])).reason or "")


def noisy_levels(run, text, structure, source, gain, noise=0.03, shared=None, seeds=3):
    results = []
    for rung, budget in enumerate(BUDGETS[:3]):
        for seed in range(seeds):
            bump = source.gauss(0, noise) + (shared[rung][seed] if shared else 0.0)
            loss = power_law(budget, gain=gain) * math.exp(bump)
            results.append(run(text, loss, rung=rung, flops=budget, seed=seed))
    return levels_of(results, structure)


def test_interval_covers_the_true_gain(run):
    """Nominal 95%; 400 studies of three seeds must not fall below 91% nor be needlessly wide."""
    source = random.Random(5)
    covered, repetitions = 0, 400
    for _ in range(repetitions):
        dense = noisy_levels(run, "dense", DENSE, source, 1.0)
        other = noisy_levels(run, "monarch", MONARCH, source, 1.6)
        found = compute_gain(other, dense)
        covered += (found.low or 0.0) <= 1.6 <= (found.high or math.inf)
    assert 0.91 <= covered / repetitions <= 0.995


def test_pairing_by_seed_takes_out_what_seeds_share(run):
    source = random.Random(6)
    shared = [[source.gauss(0, 0.2) for _ in range(3)]] * 3
    paired = compute_gain(
        noisy_levels(run, "monarch", MONARCH, source, 1.6, noise=0.001, shared=shared),
        noisy_levels(run, "dense", DENSE, source, 1.0, noise=0.001, shared=shared),
    )
    unpaired = compute_gain(
        noisy_levels(run, "monarch", MONARCH, source, 1.6, noise=0.001, shared=shared),
        noisy_levels(run, "dense", DENSE, source, 1.0, noise=0.001, shared=[row[::-1] for row in shared]),
    )
    assert math.log(paired.high / paired.low) < 0.3 * math.log(unpaired.high / unpaired.low)


def test_interval_is_the_same_every_time(run):
    def once():
        source = random.Random(7)
        return compute_gain(
            noisy_levels(run, "monarch", MONARCH, source, 1.2, seeds=8),
            noisy_levels(run, "dense", DENSE, source, 1.0, seeds=8),
        )

    assert once() == once()


def test_one_seed_has_a_gain_but_no_interval(run):
    source = random.Random(8)
    dense = noisy_levels(run, "dense", DENSE, source, 1.0, seeds=1)
    found = compute_gain(noisy_levels(run, "monarch", MONARCH, source, 1.5, seeds=1), dense)
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert "fewer than two seeds" in (found.reason or "")


def test_end_of_the_interval_beyond_the_measured_losses_is_open(run):
    losses = {0: (1.0, 1.0, 1.0), 1: (0.5, 0.5, 0.5)}
    dense = [
        run("dense", loss, rung=k, flops=10.0**k, seed=s) for k, row in losses.items() for s, loss in enumerate(row)
    ]
    other = [run("monarch", loss, seed=s) for s, loss in enumerate((0.3, 0.6, 0.7))]  # some resamples end below 0.5
    found = compute_gain(levels_of(other, MONARCH), levels_of(dense, DENSE))
    assert found.value is not None
    assert found.low is not None
    assert found.high is None


def test_low_end_beyond_the_measured_losses_is_open(run):
    dense = [run("dense", loss, rung=k, flops=10.0**k, seed=s) for k, loss in enumerate((1.0, 0.5)) for s in range(3)]
    other = [run("monarch", loss, seed=s) for s, loss in enumerate((0.7, 0.9, 1.2))]  # some resamples end above 1
    found = compute_gain(levels_of(other, MONARCH), levels_of(dense, DENSE))
    assert found.value is not None
    assert found.low is None
    assert found.high is not None


@pytest.mark.parametrize("seeds", [2, 3, 5, 9])
def test_for_small_noise_the_interval_is_the_t_interval_of_the_gains_of_single_seeds(run, seeds):
    source = random.Random(4)
    bumps = [source.gauss(0, 1e-4) for _ in range(seeds)]
    dense = [run("dense", power_law(c), rung=k, flops=c, seed=s) for k, c in enumerate(BUDGETS) for s in range(seeds)]
    other = [
        run("monarch", power_law(3e9, gain=1.4) * math.exp(bump), seed=s, flops=3e9) for s, bump in enumerate(bumps)
    ]
    found = compute_gain(levels_of(other, MONARCH), levels_of(dense, DENSE))
    low, high = t_interval([math.log(1.4) - bump / 0.3 for bump in bumps])
    tolerance = 0.01 if seeds < 7 else 0.12  # from seven seeds on resamples are random
    assert math.log(found.high / found.low) == pytest.approx(high - low, rel=tolerance)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 12])
def test_resamples_are_all_draws_with_their_probability(n):
    drawn = resamples(n)
    assert math.fsum(share for share, _ in drawn) == pytest.approx(1.0)
    assert all(sum(counts) == n for _, counts in drawn)
    means = [math.fsum(share * counts[seed] for share, counts in drawn) for seed in range(n)]
    assert means == pytest.approx([1.0] * n, abs=0.15 if n > 6 else 1e-12)


def test_t_interval_agrees_with_scipy_and_needs_two_values():
    from scipy import stats

    values = [0.31, 0.35, 0.30, 0.42]
    expected = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval([0.3]) is None
    assert t_interval([0.3, 0.3]) == (0.3, 0.3)
