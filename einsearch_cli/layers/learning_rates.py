"""Learning rates for the factors of every structured layer in a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class OwnLearningRates(nn.Module):
    """A module that knows the learning rates of all factors and routers inside it."""

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Multiplier of each parameter on the rate of a dense layer in its place, by parameter name."""
        raise NotImplementedError


class StructuredLayer(OwnLearningRates):
    """A layer that replaces dense ones, with a structure or experts of one."""

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token."""
        raise NotImplementedError

    def zero_last_factor_(self) -> None:
        """Make the output zero, without the bias."""
        raise NotImplementedError


def learning_rate_multipliers(
    model: nn.Module, dense_multiplier: Callable[[str], float] | None = None
) -> dict[str, float]:
    """Multipliers on the learning rate for every factor and router of a structured layer, by parameter name.

    With Adam, a factor needs (in_features / fan_in) / number of factors times the rate of the dense layer in its place.
    Parameters that are not listed, including gains and biases, keep the base rate. Source: Potapczynski et al. 2024
    (arXiv 2410.02117).

    Args:
        model: any module, or a structured layer itself.
        dense_multiplier: a function from the name of a layer to the multiplier of a dense layer in its place, such
            as fan-in of the base model / fan-in under muP; None means 1 for all.

    `einsearch_cli.optimizer_groups` makes the groups of an optimizer from them.

    >>> from einsearch_cli import swap_linear
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    >>> _ = swap_linear(model, "btt:r=2", filter=lambda layer, name: name == "2")
    >>> learning_rate_multipliers(model)
    {'2.factors.A': 4.0, '2.factors.B': 2.0}
    """
    return {
        f"{layer}.{name}".removeprefix("."): multiplier * (1.0 if dense_multiplier is None else dense_multiplier(layer))
        for layer, module in model.named_modules()
        if isinstance(module, OwnLearningRates)
        for name, multiplier in module.learning_rate_multipliers().items()
    }
