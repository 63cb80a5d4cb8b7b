"""A small part of benchmarks/intervals.py: simulated studies with known truth, ranked by the real code."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.intervals import Design, Truth, coverage, equal, measure, power, spending, winner


def test_intervals_cover_the_true_gain() -> None:
    """Half the variance would cover in about 83%, twice the variance in 99.5%."""
    designs = [(gain, Design(floor, noise)) for gain in (0.6, 1.5) for floor in (0.0, 0.5) for noise in (0.018, 0.005)]
    found = [measure(lambda source, case=case: coverage(Truth(gain=case[0]), case[1], source), 40) for case in designs]
    assert 0.915 <= np.mean([case["covers"] for case in found]) <= 0.985
    assert 0.90 <= np.mean([case["trend"] for case in found]) <= 0.985
    for case, (gain, design) in zip(found, designs, strict=True):
        assert abs(math.log(case["gain"] / gain)) < (0.06 if design.noise > 0.01 and design.floor else 0.03)


def test_many_equal_candidates_are_rarely_distinguished() -> None:
    found = measure(lambda source: equal(12, Design(noise=0.005), source), 60)
    assert found["better"] + found["worse"] <= 0.10


def test_a_candidate_with_five_percent_less_loss_is_found() -> None:
    assert measure(lambda source: power(6, 0.05, 0, Design(), source), 20)["found"] >= 0.8


def test_the_quoted_gain_of_the_winner_is_not_the_one_that_chose_it() -> None:
    found = measure(lambda source: winner((1.0,) * 8, Design(), source), 60)
    assert abs(found["quoted"]) < 0.02
    assert found["chosen_by"] > 0.03


def test_seeds_go_to_undecided_comparisons() -> None:
    found = measure(lambda source: spending((0.7, 1.0, 1.4), (3, 6), True, Design(), source), 25)
    assert found["false"] <= 0.12
    assert found["runs"] < 0.9, "two of four get the seeds of the second look"
    assert found["found"] > 0.9


def test_a_fixed_grid_that_ends_before_the_optimum_gives_no_verdict() -> None:
    found = measure(lambda source: coverage(Truth(best=4000.0), Design(ratio=2.0, fixed=3), source), 10)
    assert (found["better"], found["worse"]) == (0.0, 0.0)
