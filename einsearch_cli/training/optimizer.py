"""Optimizer groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from einsearch_cli.models import ProxyModel
from einsearch_cli.training.settings import OptimizerSettings


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
    model: ProxyModel, rates: Mapping[str, tuple[float, float]], settings: OptimizerSettings
) -> torch.optim.AdamW:
    """AdamW with one group per distinct (learning rate, weight decay), not per tensor.

    The peak learning rate of a group is kept under "peak_lr"; `set_learning_rates` scales it.
    """
    members: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, value in model.named_parameters():
        members.setdefault(rates[name], []).append(value)
    groups = [
        {"params": values, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), values in members.items()
    ]
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Give every group this fraction of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * fraction


def schedule(step: int, steps: int, *, warmup: float, final: float) -> float:
    """Fraction of the peak learning rate at `step` (0-based): linear warm-up, then cosine to `final`.

    >>> [round(schedule(step, 10, warmup=0.2, final=0.1), 3) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.134]
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
