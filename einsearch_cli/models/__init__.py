"""The networks that are trained: `MLP` and `Transformer`; their costs are counted without torch."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.models.base import LinearRule, ProxyModel, structured_linear
    from einsearch_cli.models.counts import TRAINING_TO_FORWARD, FlopCount, NetworkCount, mlp_count
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
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "base": ("LinearRule", "ProxyModel", "structured_linear"),
            "counts": ("TRAINING_TO_FORWARD", "FlopCount", "NetworkCount", "mlp_count"),
            "mlp": ("MLP",),
            "transformer": (
                "PRESETS",
                "KeyValueCache",
                "Transformer",
                "TransformerConfig",
                "config_from",
                "preset",
                "proxy_config",
            ),
        },
    )

__all__ = [
    "MLP",
    "PRESETS",
    "TRAINING_TO_FORWARD",
    "FlopCount",
    "KeyValueCache",
    "LinearRule",
    "NetworkCount",
    "ProxyModel",
    "Transformer",
    "TransformerConfig",
    "config_from",
    "mlp_count",
    "preset",
    "proxy_config",
    "structured_linear",
]
