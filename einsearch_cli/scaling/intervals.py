"""Intervals for means over a handful of seeds."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from functools import lru_cache

CONFIDENCE = 0.95
"""Level of every interval in this package."""

MAX_RESAMPLES = 1000
RESAMPLING_SEED = 20240
"""Seed of the random resamples, so that the same results always give the same intervals."""

Resample = tuple[float, tuple[int, ...]]
"""(probability, how often each seed was drawn)."""


@lru_cache(maxsize=256)
def t_quantile(degrees: int) -> float:
    """Two-sided Student-t quantile at `CONFIDENCE`.

    >>> round(t_quantile(2), 4)
    4.3027
    """
    from scipy.special import stdtrit  # 0.3 s to import: only when an interval is wanted

    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student-t interval for the mean of `values`; None for fewer than two.

    Covers the true mean in 95% of repetitions when the values are independent and
    close to normal. It covers the variation between seeds, and nothing else: not the
    choice of the best width, of learning rates, or of the task.

    >>> tuple(round(end, 3) for end in t_interval([1.0, 2.0, 3.0]) or ())
    (-0.484, 4.484)
    >>> t_interval([1.0]) is None
    True
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


@lru_cache(maxsize=64)
def resamples(n: int) -> tuple[Resample, ...]:
    """Bootstrap resamples of `n` seeds with their probabilities.

    Up to six seeds all C(2n−1, n) distinct resamples are listed with their exact
    multinomial probability, so the bootstrap has no noise of its own; beyond that,
    `MAX_RESAMPLES` random ones from a fixed seed.

    >>> resamples(2)
    ((0.25, (2, 0)), (0.5, (1, 1)), (0.25, (0, 2)))
    """
    if math.comb(2 * n - 1, n) <= MAX_RESAMPLES:
        counts = (_counts(draw, n) for draw in itertools.combinations_with_replacement(range(n), n))
        return tuple((_multinomial(count) / n**n, count) for count in counts)
    source = random.Random(RESAMPLING_SEED)
    return tuple((1 / MAX_RESAMPLES, _counts(source.choices(range(n), k=n), n)) for _ in range(MAX_RESAMPLES))


def _counts(draw: Sequence[int], n: int) -> tuple[int, ...]:
    return tuple(draw.count(index) for index in range(n))


def _multinomial(counts: Sequence[int]) -> int:
    return math.factorial(sum(counts)) // math.prod(math.factorial(count) for count in counts)


def weighted_spread(draws: Sequence[tuple[float, float]]) -> float:
    """Standard deviation of (probability, value) draws; 0 for no draws."""
    total = math.fsum(weight for weight, _ in draws)
    if total == 0:
        return 0.0
    mean = math.fsum(weight * value for weight, value in draws) / total
    return math.sqrt(math.fsum(weight * (value - mean) ** 2 for weight, value in draws) / total)
