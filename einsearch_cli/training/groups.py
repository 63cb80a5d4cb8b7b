"""Groups of parameters with their learning rates and weight decay."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from einsearch_cli.training.optimizers import Group, OptimizerKind, Options


def parameter_options(
    model: nn.Module, multipliers: Mapping[str, float], *, learning_rate: float, weight_decay: float
) -> dict[str, Options]:
    """Peak learning rate and weight decay of every parameter, by name.

    Args:
        model: holds the parameters.
        multipliers: of the learning rate, by name; 1 for a parameter that is not listed.
        learning_rate: at multiplier 1.
        weight_decay: of matrices; gains, biases and parameters of norms have none.
    """
    decayed = _decayed(model)
    return {
        name: {
            "lr": learning_rate * multipliers.get(name, 1.0),
            "weight_decay": weight_decay if name in decayed else 0.0,
        }
        for name, _ in model.named_parameters()
    }


def state_bytes(model: nn.Module, kind: OptimizerKind, options: Mapping[str, Options]) -> int:
    """What an optimizer keeps for all parameters together, in float32."""
    return sum(value.numel() * kind.state_bytes(options[name]) for name, value in model.named_parameters())


def _decayed(model: nn.Module) -> set[str]:
    """Tensors of two or more dimensions that are neither biases, such as those of packed experts, nor in a norm."""
    norms = tuple(name for name, module in model.named_modules() if "norm" in type(module).__name__.lower())
    return {
        name
        for name, value in model.named_parameters()
        if value.ndim >= 2 and "bias" not in name.rpartition(".")[2].split("_") and name.rpartition(".")[0] not in norms
    }


def grouped(model: nn.Module, options: Mapping[str, Options]) -> list[Group]:
    """One group for each distinct combination of options, not for each tensor, which is what fused steps are fast with.

    The peak learning rate of a group is kept under "peak_lr"; `set_learning_rates` scales it.
    Parameters are found by name, so the model may have been sharded since the options were taken.
    """
    members: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        members.setdefault(tuple(sorted(options[name].items())), []).append(value)
    return [{"params": values, "peak_lr": dict(key)["lr"], **dict(key)} for key, values in members.items()]


def set_learning_rates(optimizer: Optimizer, fraction: float) -> None:
    """Give every group this fraction of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * fraction
