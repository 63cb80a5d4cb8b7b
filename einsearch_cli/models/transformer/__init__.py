"""A decoder-only transformer whose layers may be structured: config, presets, network, key-value cache, costs."""

from einsearch_cli.models.transformer.accelerators import ACCELERATORS, Accelerator, accelerator
from einsearch_cli.models.transformer.accounting import (
    ModelCosts,
    Part,
    PartCost,
    dense_twin,
    meta_transformer,
    model_costs,
)
from einsearch_cli.models.transformer.cache import KeyValueCache
from einsearch_cli.models.transformer.config import TransformerConfig, config_from
from einsearch_cli.models.transformer.estimate import UTILISATION, Estimate, estimate
from einsearch_cli.models.transformer.model import Transformer
from einsearch_cli.models.transformer.presets import PRESETS, preset, proxy_config

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
