import math
import random
from itertools import pairwise

import pytest

from einsearch_cli.reports.plot import Scale, log_ticks, spread_apart, swarm


@pytest.mark.parametrize("seed", range(20))
def test_labels_never_overlap_and_keep_their_order(seed):
    source = random.Random(seed)
    wanted = [source.uniform(0, 300) for _ in range(15)]
    placed = spread_apart(wanted, 17.0, 0.0, 300.0)
    heights = sorted(placed)
    assert all(b - a >= 17.0 - 1e-9 for a, b in pairwise(heights))
    assert sorted(range(15), key=lambda i: wanted[i]) == sorted(range(15), key=lambda i: placed[i])
    assert heights[0] >= -1e-9
    assert heights[-1] <= 300 + 1e-9


def test_labels_with_room_stay_where_they_are():
    assert spread_apart([10.0, 100.0, 50.0], 17.0, 0.0, 300.0) == [10.0, 100.0, 50.0]


def test_discs_of_a_swarm_do_not_overlap():
    source = random.Random(1)
    heights = [source.uniform(0, 100) for _ in range(20)]
    offsets = swarm(heights, [5.0] * 20, reach=200.0)
    centres = list(zip(offsets, heights, strict=True))
    gaps = [math.dist(a, b) for i, a in enumerate(centres) for b in centres[:i]]
    assert min(gaps) >= 10.0 - 0.2


@pytest.mark.parametrize(
    ("low", "high"), [(0.03, 0.048), (0.02, 0.09), (1e-6, 1.0), (3.1, 3.2), (0.9, 1.1), (1e-30, 1e30)]
)
def test_ticks_are_few_round_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert list(ticks) == sorted(set(ticks))
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_scale_of_a_single_value_is_its_middle():
    assert Scale(3.0, 3.0, 0.0, 100.0)(3.0) == 50.0
    assert Scale(1.0, 100.0, 0.0, 100.0)(10.0) == pytest.approx(50.0)
