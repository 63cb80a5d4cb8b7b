"""The weight of the guide over the steps, when it is evaluated, and how long it may last."""

from __future__ import annotations

import math
import random


def guide_weight(step: int, guided_steps: int) -> float:
    """The weight a of the guide at `step` (0-based): a cosine from 1 at step 0 to 0 at step `guided_steps`.

    Wei et al. 2024 (arXiv 2406.16450), self-guided training. The mean over the guided steps is
    (guided_steps + 1) / (2 · guided_steps).

    >>> [round(guide_weight(step, 4), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    if step >= guided_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * step / guided_steps))


def guide_is_evaluated(step: int, weight: float, seed: int) -> bool:
    """Stochastic mode: true with probability `weight`; the same on every process and after every resume.

    The draw depends only on step and seed, so nothing has to be stored.

    >>> [guide_is_evaluated(step, 0.5, seed=0) for step in range(6)]
    [True, False, True, True, True, True]
    >>> guide_is_evaluated(3, 1.0, seed=0), guide_is_evaluated(3, 0.0, seed=0)
    (True, False)
    """
    return random.Random(f"self-guide {seed} {step}").random() < weight


def flop_matched_guide(
    steps: int, *, dense_flops: float, structured_flops: float, guide_flops: float, stochastic: bool
) -> int:
    """Number of guided steps g with which training costs as much as the dense model on `steps` steps.

    Guiding g steps, and repeating their tokens at the end, must satisfy (steps + g) · structured + n · guide ≤ steps ·
    dense. The guide is evaluated in n = g steps, or in stochastic mode in n = (g + 1) / 2 of them on average. g is at
    most `steps`, as there are no more tokens to repeat. Source: Wei et al. 2024 (arXiv 2406.16450), self-guided
    training at equal FLOPs.

    Args:
        steps: optimizer steps of the dense model.
        dense_flops: FLOPs of the dense model, per token or per step.
        structured_flops: FLOPs of the structured model without guides, in the same unit.
        guide_flops: FLOPs of all guides, in the same unit.
        stochastic: whether the guide is evaluated only with probability a.

    >>> costs = dict(dense_flops=100, structured_flops=60, guide_flops=60)
    >>> flop_matched_guide(1000, **costs, stochastic=False), flop_matched_guide(1000, **costs, stochastic=True)
    (333, 444)
    """
    saved = steps * (dense_flops - structured_flops)
    once = guide_flops / 2 if stochastic else 0.0
    per_step = structured_flops + (guide_flops / 2 if stochastic else guide_flops)
    return min(steps, max(0, math.floor((saved - once) / per_step)))
