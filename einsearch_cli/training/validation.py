"""When a run measures its held-out loss."""

from __future__ import annotations


def validation_marks(steps: int, points: int) -> frozenset[int]:
    """Steps (1-based) after which to validate: so many, evenly spaced, the last always among them.

    >>> sorted(validation_marks(10, 3))
    [3, 7, 10]
    """
    return frozenset(max(1, round(steps * point / points)) for point in range(1, points + 1))
