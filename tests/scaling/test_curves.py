import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from einsearch_cli.scaling import frontier, levels_of
from einsearch_cli.structures import parse_structure

DENSE = parse_structure("dense")


def test_best_width_has_the_lowest_mean_over_seeds(run):
    results = [run("dense", loss, width=width, seed=seed)
               for width, losses in {64: (1.0, 2.0), 128: (1.4, 1.4), 256: (0.9, 2.5)}.items()
               for seed, loss in enumerate(losses)]  # fmt: skip
    (level,) = levels_of(results, DENSE)
    assert [cell.mean for cell in level.cells] == [1.5, 1.4, 1.7]
    assert level.best.width == 128


def test_width_that_lost_a_seed_is_not_judged_by_the_others(run):
    results = [run("dense", 1.0, width=64, seed=seed) for seed in range(3)]
    results += [run("dense", 0.1, width=128, seed=0), run("dense", None, width=128, seed=1, status="diverged")]
    assert levels_of(results, DENSE)[0].best.width == 64


def test_only_finished_finite_losses_count(run):
    results = [
        run("dense", 1.0, seed=0),
        run("dense", 0.2, seed=1, status="failed"),
        run("dense", math.nan, seed=2),
        run("dense", None, seed=3, status="diverged"),
        run("monarch", 0.1, seed=4),
    ]
    (level,) = levels_of(results, DENSE)
    assert level.best.losses == ((0, 1.0),)


def test_a_trial_listed_twice_counts_once_with_its_later_result(run):
    (level,) = levels_of([run("dense", 1.0), run("dense", 3.0)], DENSE)
    assert level.best.losses == ((0, 3.0),)


def test_levels_are_ordered_by_rung(run):
    results = [run("dense", 1.0, rung=2, flops=4e9), run("dense", 3.0), run("dense", 2.0, rung=1, flops=2e9)]
    assert [level.rung for level in levels_of(results, DENSE)] == [0, 1, 2]


def test_frontier_is_the_lower_hull_found_by_brute_force():
    source = random.Random(3)
    for _ in range(50):
        points = [(10 ** source.uniform(9, 12), 10 ** source.uniform(-2, 0)) for _ in range(7)]
        curve = frontier(points)
        for compute, loss in points:  # no point lies below the curve or is cheaper at the same loss
            reached = curve.compute_at(loss)
            assert reached is None or reached <= compute * (1 + 1e-9)
        slopes = [math.log(b[1] / a[1]) / math.log(b[0] / a[0]) for a, b in pairwise(curve.points)]
        assert all(slope < 0 for slope in slopes)
        assert slopes == sorted(slopes)
        assert set(curve.points) <= set(points)


def test_frontier_keeps_all_points_of_an_exact_power_law():
    points = [(3.0**k * 1e9, (3.0**k) ** -0.37) for k in range(6)]
    assert frontier(points).points == tuple(points)


def test_frontier_drops_points_that_a_cheaper_one_beats():
    assert frontier([(1.0, 2.0), (2.0, 2.5)]).points == ((1.0, 2.0),)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_frontier_says_what_it_is(count):
    kinds = ("empty", "one point", "piecewise linear", "convex hull")
    assert frontier([(10.0**k, 0.5**k) for k in range(count)]).kind == kinds[count]


@pytest.mark.parametrize("loss", [0.0, -1.0, math.inf, math.nan])
def test_points_without_a_logarithm_are_left_out(loss):
    assert frontier([(1e9, loss), (1e10, 0.5)]).points == ((1e10, 0.5),)


def test_nothing_is_extrapolated():
    curve = frontier([(1e9, 0.5), (1e10, 0.25)])
    assert curve.compute_at(0.5) == 1e9
    assert curve.compute_at(0.25) == 1e10
    assert curve.compute_at(0.5001) is None
    assert curve.compute_at(0.2499) is None


def test_compute_is_what_was_spent_not_the_budget(run):
    """A run stops at the last whole step within its budget."""
    results = [replace(run("dense", 0.5, seed=s, flops=1e9), train_flops=flops) for s, flops in enumerate((9e8, 8e8))]
    [level] = levels_of(results, parse_structure("dense"))
    assert level.budget_flops == 1e9
    assert level.best.compute == pytest.approx(8.5e8)
