"""The learning-rate schedule."""

from __future__ import annotations

import math
from typing import Final, Literal

ScheduleShape = Literal["cosine", "constant", "wsd"]

WSD_DECAY: Final = 0.2
"""Share of the steps over which warm-up–stable–decay falls: Hägele et al. 2024 (arXiv 2405.18392)."""


def lr_fraction(step: int, steps: int, *, warmup: float, final: float, shape: ScheduleShape = "cosine") -> float:
    """Fraction of the peak learning rate at `step` (0-based): linear warm-up, then the shape.

    Args:
        step: updates made before.
        steps: updates of the whole run.
        warmup: share of the steps during which the rate rises.
        final: fraction at which `cosine` and `wsd` end; `constant` stays at 1.
        shape: `cosine`, `constant`, or `wsd`: constant, then straight down over the last fifth.

    >>> [round(lr_fraction(step, 10, warmup=0.2, final=0.1), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.134]
    >>> [round(lr_fraction(step, 10, warmup=0.2, final=0.0, shape="wsd"), 3) for step in (0, 2, 7, 8, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    rising = warmup_steps(steps, warmup)
    if step < rising:
        return (step + 1) / rising
    if shape == "constant":
        return 1.0
    if shape == "wsd":
        decay_steps = max(1, round(WSD_DECAY * steps))
        return final + (1 - final) * min(1.0, (steps - step) / decay_steps)
    progress = (step - rising) / (steps - rising)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(steps: int, warmup: float) -> int:
    """Updates over which the learning rate rises.

    >>> warmup_steps(200, 0.05)
    10
    """
    return round(warmup * steps)


def validation_marks(steps: int, points: int) -> frozenset[int]:
    """Steps (1-based) after which to validate: `points` of them, evenly spaced, always including the last.

    >>> sorted(validation_marks(10, 3))
    [3, 7, 10]
    """
    return frozenset(max(1, round(steps * point / points)) for point in range(1, points + 1))
