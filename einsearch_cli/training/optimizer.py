"""Optimizer groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import torch
from torch import nn

from einsearch_cli.models import ProxyModel

Shape = Literal["cosine", "constant", "wsd"]

WSD_DECAY: Final = 0.2
"""Share of the steps over which warm-up–stable–decay falls at the end: Hägele et al. 2024 (arXiv 2405.18392)."""


def parameter_rates(
    model: ProxyModel, *, base_width: int, learning_rate: float, weight_decay: float
) -> dict[str, tuple[float, float]]:
    """(peak learning rate, weight decay) of every parameter, by name.

    Weight decay is on tensors of two or more dimensions only.
    """
    multipliers = model.learning_rate_multipliers(base_width)
    return {
        name: (learning_rate * multipliers[name], weight_decay if value.ndim >= 2 else 0.0)
        for name, value in model.named_parameters()
    }


def make_optimizer(
    model: nn.Module, rates: Mapping[str, tuple[float, float]], betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW with one group per distinct (learning rate, weight decay), not per tensor.

    The peak learning rate of a group is kept under "peak_lr"; `set_learning_rates` scales it.
    Parameters are found by name, so the model may have been sharded since the rates were taken.
    """
    members: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, value in model.named_parameters():
        members.setdefault(rates[name], []).append(value)
    groups = [
        {"params": values, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), values in members.items()
    ]
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Give every group this fraction of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * fraction


def schedule(step: int, steps: int, *, warmup: float, final: float, shape: Shape = "cosine") -> float:
    """Fraction of the peak learning rate at `step` (0-based): linear warm-up, then the shape.

    Args:
        step: updates made before.
        steps: updates of the whole run.
        warmup: share of the steps that the rise takes.
        final: what `cosine` and `wsd` fall to; `constant` stays at 1.
        shape: `cosine`, `constant`, or `wsd`: constant, then straight down over the last fifth.

    >>> [round(schedule(step, 10, warmup=0.2, final=0.1), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.134]
    >>> [round(schedule(step, 10, warmup=0.2, final=0.0, shape="wsd"), 3) for step in (0, 2, 7, 8, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if shape == "constant":
        return 1.0
    if shape == "wsd":
        decay_steps = max(1, round(WSD_DECAY * steps))
        return final + (1 - final) * min(1.0, (steps - step) / decay_steps)
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
