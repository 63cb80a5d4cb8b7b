"""A decoder-only transformer whose layers may be structured: config, presets, network, key-value cache, costs.

The network and its cache load torch, on first use; everything else is arithmetic.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names
from einsearch_cli.models.transformer.accelerators import ACCELERATORS, Accelerator, accelerator
from einsearch_cli.models.transformer.accounting import ModelCosts, Part, PartCost, dense_twin, model_costs
from einsearch_cli.models.transformer.config import TransformerConfig, config_from
from einsearch_cli.models.transformer.presets import PRESETS, preset, proxy_config
from einsearch_cli.models.transformer.resources import UTILISATION, Estimate, estimate

if TYPE_CHECKING:
    from einsearch_cli.models.transformer.key_value_cache import KeyValueCache
    from einsearch_cli.models.transformer.model import Transformer, meta_transformer
else:
    __getattr__ = lazy_names(
        __name__, {"key_value_cache": ("KeyValueCache",), "model": ("Transformer", "meta_transformer")}
    )

__all__ = [
    "ACCELERATORS",
    "PRESETS",
    "UTILISATION",
    "Accelerator",
    "Estimate",
    "KeyValueCache",
    "ModelCosts",
    "Part",
    "PartCost",
    "Transformer",
    "TransformerConfig",
    "accelerator",
    "config_from",
    "dense_twin",
    "estimate",
    "meta_transformer",
    "model_costs",
    "preset",
    "proxy_config",
]
