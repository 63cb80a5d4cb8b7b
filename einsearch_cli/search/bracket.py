"""Choose which points of a row to measure next, until the lowest one has a neighbour on both sides.

Learning rates and widths are searched alike. Points are whole numbers, and a measurement is a loss (infinite if a run
has none). More points are requested only beyond an end at which the best one lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

Neighbour = Callable[[int, int], int | None]
"""A function (point, step) that returns the point `step` steps up, or down if negative; None if there is none."""

MOST_POINTS: Final = 16
"""The most points measured in one search; a row that needs more has no useful minimum."""


def next_points(values: Mapping[int, float], neighbour: Neighbour, *, leaps: bool = False) -> list[int]:
    """Points to measure next; empty if the best one has both neighbours, or there are no more.

    If every value is infinite, the lower neighbour of the lowest point is tried: lower rates and narrower networks
    diverge less.

    Args:
        values: the measurements by point.
        neighbour: gives the neighbours of a point; it knows the ends of the row and its gaps.
        leaps: take ever longer steps beyond an end while the best point stays there, and fill the gaps afterwards.

    >>> line = lambda point, step: point + step
    >>> next_points({-1: 3.0, 0: 2.0, 1: 1.0}, line)
    [2]
    >>> next_points({-1: 3.0, 0: 1.0, 1: 2.0}, line)
    []
    """
    if not values or len(values) >= MOST_POINTS:
        return []
    best = best_point(values)
    if best is None:
        wanted = [neighbour(min(values), -1)]
    else:
        neighbours = [(step, neighbour(best, step)) for step in (-1, 1)]
        wanted = [point for _, point in neighbours]
        for step, point in neighbours:
            is_end = best == (min(values) if step < 0 else max(values))
            if leaps and is_end and point is not None and (stride := _stride(len(values))) > 1:
                wanted = [_far(best, step * stride, neighbour)]
    return [point for point in wanted if point is not None and point not in values]


def best_point(values: Mapping[int, float]) -> int | None:
    """The point with the lowest value, the lower point in a tie; None if no value is finite."""
    finite = [point for point, value in values.items() if math.isfinite(value)]
    return min(finite, key=lambda point: (values[point], point), default=None)


def _stride(measured: int) -> int:
    """The step of an extension: 1 for the first two, as a guess is rarely far off; then 2 and 4."""
    return 1 if measured < 5 else 2 if measured == 5 else 4


def _far(point: int, step: int, neighbour: Neighbour) -> int | None:
    """The point `step` steps away, or the last one on the way to it."""
    while step:
        if (found := neighbour(point, step)) is not None:
            return found
        step -= 1 if step > 0 else -1
    return None
