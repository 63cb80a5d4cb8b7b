"""Optimizer groups."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from einsearch_cli.models import ProxyModel


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
