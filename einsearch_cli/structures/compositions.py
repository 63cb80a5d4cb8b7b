"""Ways to share a whole number among parts: the exponents of one side of a structure."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int16]
Numbers = NDArray[np.int64]


def compositions(total: int, parts: int) -> Rows:
    """All ways to write `total` as an ordered sum of `parts` whole numbers, in lexicographic order.

    >>> compositions(2, 2).tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    rows = comb(total + parts - 1, parts - 1)
    bars = (bar for chosen in combinations(range(total + parts - 1), parts - 1) for bar in chosen)
    edges = np.full((rows, parts + 1), -1, dtype=np.int16)
    edges[:, 1:-1] = np.fromiter(bars, dtype=np.int16, count=rows * (parts - 1)).reshape(rows, parts - 1)
    edges[:, -1] = total + parts - 1
    return np.diff(edges, axis=1).astype(np.int16) - np.int16(1)


def composition_ranks(rows: Rows, total: int) -> Numbers:
    """The place of every row in `compositions`.

    >>> composition_ranks(compositions(3, 4), 3).tolist() == list(range(20))
    True
    """
    parts = rows.shape[1]
    ranks = np.zeros(len(rows), dtype=np.int64)
    left = np.full(len(rows), total, dtype=np.int64)
    for position in range(parts - 1):
        ranks += _passed(total, parts - position - 1)[left, rows[:, position]]
        left -= rows[:, position]
    return ranks


def _passed(total: int, after: int) -> Numbers:
    """[left, entry]: compositions of `left` into 1 + `after` parts that begin with less than `entry`."""
    table = np.zeros((total + 1, total + 1), dtype=np.int64)
    for left in range(total + 1):
        for entry in range(1, left + 1):
            rest = left - entry + 1
            table[left, entry] = table[left, entry - 1] + comb(rest + after - 1, after - 1)
    return table
