"""The networks that are trained: `MLP` and `Transformer`."""

from einsearch_cli.models.base import (
    TRAINING_TO_FORWARD,
    FlopCount,
    LinearRule,
    ProxyModel,
    structured_linear,
)
from einsearch_cli.models.mlp import MLP
from einsearch_cli.models.transformer import (
    PRESETS,
    KeyValueCache,
    Transformer,
    TransformerConfig,
    config_from,
    preset,
    proxy_config,
)

__all__ = [
    "MLP",
    "PRESETS",
    "TRAINING_TO_FORWARD",
    "FlopCount",
    "KeyValueCache",
    "LinearRule",
    "ProxyModel",
    "Transformer",
    "TransformerConfig",
    "config_from",
    "preset",
    "proxy_config",
    "structured_linear",
]
