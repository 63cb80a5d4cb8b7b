"""The networks that a proxy run trains: `MLP` and `GPT`."""

from einsearch_cli.models.base import (
    TRAINING_TO_FORWARD,
    FeedForwardRule,
    FlopCount,
    LinearRule,
    ProxyModel,
    mixture_of_networks,
    structured_linear,
)
from einsearch_cli.models.gpt import GPT
from einsearch_cli.models.mlp import MLP

__all__ = [
    "GPT",
    "MLP",
    "TRAINING_TO_FORWARD",
    "FeedForwardRule",
    "FlopCount",
    "LinearRule",
    "ProxyModel",
    "mixture_of_networks",
    "structured_linear",
]
