"""Learning rates for the factors of every structured layer in any model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.moe.feed_forward import FeedForwardMoE
from einsearch_cli.layers.moe.fused import FusedExperts
from einsearch_cli.layers.moe.layer import StructuredMoE

STRUCTURED = (EinsumLinear, StructuredMoE, FeedForwardMoE)
"""Layers that know their FLOPs, their learning rates, and how to start at zero."""


def learning_rate_multipliers(
    model: nn.Module, dense_multiplier: Callable[[str], float] | None = None
) -> dict[str, float]:
    """What to multiply the learning rate by, for every factor and router of a structured layer, by parameter name.

    With Adam a factor wants (in_features / fan_in) / number of factors times the rate of the dense layer in
    its place. Parameters that are not listed, gains and biases among them, keep the base rate. Source:
    Potapczynski et al. 2024 (arXiv 2410.02117).

    Args:
        model: any module; may be a structured layer itself.
        dense_multiplier: from the name of a layer to the multiplier of a dense layer in its place, such
            as fan-in of the base model / fan-in under muP; all 1 if None.

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
        if isinstance(module, (*STRUCTURED, FusedExperts))
        for name, multiplier in module.learning_rate_multipliers().items()
    }
