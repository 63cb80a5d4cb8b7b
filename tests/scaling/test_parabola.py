"""The minimum of a measured curve, compared with numpy's own fit and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from einsearch_cli.scaling.parabola import vertex


def test_a_parabola_gives_back_its_own_minimum() -> None:
    x = [-1.3, -0.2, 0.4, 1.9, 3.0]
    found = vertex(x, [2 + 0.32 * (value - 0.1) ** 2 for value in x])
    assert found.is_optimum
    assert (found.at, found.value, found.curvature) == pytest.approx((0.1, 2.0, 0.32))


def test_the_best_three_points_make_the_parabola_whatever_their_order() -> None:
    x, y = [4.0, 1.0, 2.0, 0.0, 3.0], [0.9, 0.5, 0.31, 3.0, 0.4]
    a, b, c = np.polyfit([1.0, 2.0, 3.0], [0.5, 0.31, 0.4], 2)
    found = vertex(x, y)
    assert (found.at, found.value, found.curvature) == pytest.approx((-b / (2 * a), c - b * b / (4 * a), a))


@pytest.mark.parametrize(("y", "edge", "word"), [([1, 2, 3], "low", "lowest"), ([3, 2, 1], "high", "highest")])
def test_a_best_point_at_an_end_is_not_an_optimum(y: list[float], edge: str, word: str) -> None:
    found = vertex([0, 1, 2], y)
    assert (found.edge, found.at_edge, found.is_optimum, found.curvature) == (edge, True, False, None)
    assert (found.at, found.value) == ({"low": 0, "high": 2}[edge], 1)
    assert found.reason == f"the best point is the {word}"


def test_fewer_than_three_points_have_no_optimum() -> None:
    assert vertex([0.0, 1.0], [1.0, 2.0]).edge == "low"
    assert vertex([5.0], [1.0]).reason == "the best point is the highest of fewer than three points"


@pytest.mark.parametrize("diverged", [math.inf, math.nan])
def test_a_diverged_neighbour_bounds_the_search_but_carries_no_parabola(diverged: float) -> None:
    found = vertex([0, 1, 2], [1.2, 1.0, diverged])
    assert (found.at, found.at_edge, found.is_optimum) == (1, False, False)
    assert found.reason == "a neighbour of the best point diverged"
    assert vertex([0, 1, 2, 3], [1.2, 1.0, 1.3, diverged]).is_optimum


def test_equal_losses_are_not_an_optimum() -> None:
    found = vertex([0, 1, 2, 3], [2, 1, 1, 1])
    assert found.is_optimum
    assert vertex([0, 1, 2, 3], [1, 1, 1, 1]).edge == "low"


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite y among 2 points"):
        vertex([0, 1], [math.nan, math.inf])
    with pytest.raises(ValueError, match="each x may occur only once"):
        vertex([0, 0, 1], [1, 2, 3])
