"""Groups of parameters with their learning rates and weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from einsearch_cli.errors import SpecError
from einsearch_cli.layers import learning_rate_multipliers

Options = Mapping[str, float]
"""The options of a parameter for an optimizer: `lr` at its peak, `weight_decay`, and those of the optimizer itself."""

Group = dict[str, Any]
"""A group of `torch.optim`: `params`, their options, and `peak_lr`."""


def parameter_options(
    model: nn.Module, multipliers: Mapping[str, float], *, learning_rate: float, weight_decay: float
) -> dict[str, Options]:
    """Peak learning rate and weight decay of every parameter, by name.

    Args:
        model: holds the parameters.
        multipliers: factors on the learning rate, by name; 1 for a parameter that is not listed.
        learning_rate: learning rate at multiplier 1.
        weight_decay: weight decay of matrices; gains, biases and parameters of norms have none.
    """
    decayed = _decayed(model)
    return {
        name: {
            "lr": learning_rate * multipliers.get(name, 1.0),
            "weight_decay": weight_decay if name in decayed else 0.0,
        }
        for name, _ in model.named_parameters()
    }


def optimizer_groups(model: nn.Module, lr: float, weight_decay: float) -> list[Group]:
    """Parameter groups for an optimizer of `torch.optim`: learning rates of factors, and decay only of matrices.

    A factor of a structured layer has its own learning rate (`learning_rate_multipliers`); all other parameters have
    `lr`. Gains, biases and parameters of norms do not decay. There is one group for each distinct pair of learning rate
    and decay, in the order of the parameters. Parameters that do not require a gradient are left out.

    Args:
        model: any module, such as one after `swap_linear`.
        lr: learning rate of dense layers; not negative.
        weight_decay: weight decay of matrices, embeddings included; not negative.

    Raises:
        SpecError: a negative or infinite `lr` or `weight_decay`, or a model without parameters that require a gradient.

    >>> from einsearch_cli import optimizer_groups, swap_linear
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))
    >>> _ = swap_linear(model, "btt:r=2", filter=lambda layer, name: name == "2")
    >>> groups = optimizer_groups(model, lr=1e-3, weight_decay=0.1)
    >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
    [(0.001, 0.1, 1), (0.001, 0.0, 5), (0.004, 0.1, 1), (0.002, 0.1, 1)]
    >>> optimizer = torch.optim.AdamW(groups)
    """
    for name, number in (("lr", lr), ("weight_decay", weight_decay)):
        if not 0 <= number < math.inf:
            raise SpecError(f"{name} is {number}: a number from 0 on is needed", remedy=f"{name}=1e-3")
    multipliers = learning_rate_multipliers(model)
    groups = _members(model, parameter_options(model, multipliers, learning_rate=lr, weight_decay=weight_decay))
    if not groups:
        raise SpecError(
            f"{type(model).__name__} has no parameter that requires a gradient", remedy="set requires_grad on some"
        )
    return groups


def _decayed(model: nn.Module) -> set[str]:
    """Names of tensors of two or more dimensions, without those in norms and biases, such as packed experts have."""
    norms = tuple(name for name, module in model.named_modules() if "norm" in type(module).__name__.lower())
    return {
        name
        for name, value in model.named_parameters()
        if value.ndim >= 2 and "bias" not in name.rpartition(".")[2].split("_") and name.rpartition(".")[0] not in norms
    }


def grouped(model: nn.Module, options: Mapping[str, Options]) -> list[Group]:
    """One group for each distinct combination of options: fused steps are fast with few groups.

    The peak learning rate of a group is stored under "peak_lr"; `set_learning_rates` scales it. Parameters are found by
    name, so the model may be sharded after the options were computed.
    """
    return [{**group, "peak_lr": group["lr"]} for group in _members(model, options)]


def _members(model: nn.Module, options: Mapping[str, Options]) -> list[Group]:
    members: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            members.setdefault(tuple(sorted(options[name].items())), []).append(value)
    return [{"params": values, **dict(key)} for key, values in members.items()]


def set_learning_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Give every group this fraction of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * fraction
