"""Which points of a row to measure next, until the lowest one has a neighbour on both sides.

The search for a learning rate and for a width are the same: points have whole numbers, a measurement is a loss (infinite
where a run has none), and more points are asked for only beyond an end where the best one lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

Neighbour = Callable[[int, int], int | None]
"""(point, step) -> the point `step` steps up, or down if negative; None where there is none."""

MOST_POINTS: Final = 16
"""Points measured in one search; a row that needs more has no minimum worth finding."""


def next_points(values: Mapping[int, float], neighbour: Neighbour, *, leaps: bool = False) -> list[int]:
    """Points to measure next; none when the best one has both neighbours, or there are no more.

    Where every value is infinite, the lowest point's lower neighbour is tried: lower rates and narrower networks
    diverge less.

    Args:
        values: what was measured.
        neighbour: where the row ends, and which of its points are missing.
        leaps: go further and further beyond an end where the best point stays, and fill in afterwards.

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
    """The point with the lowest value, the lower point on a tie; None where no value is finite."""
    finite = [point for point, value in values.items() if math.isfinite(value)]
    return min(finite, key=lambda point: (values[point], point), default=None)


def _stride(measured: int) -> int:
    """1 for the first two extensions of a row of three points, as a guess is rarely far off; then 2 and 4."""
    return 1 if measured < 5 else 2 if measured == 5 else 4


def _far(point: int, step: int, neighbour: Neighbour) -> int | None:
    """The point `step` steps away, or the last one on the way to it."""
    while step:
        if (found := neighbour(point, step)) is not None:
            return found
        step -= 1 if step > 0 else -1
    return None
