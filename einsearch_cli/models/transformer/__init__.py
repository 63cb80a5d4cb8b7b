"""A decoder-only transformer whose layers may be structured: config, presets, network, key-value cache."""

from einsearch_cli.models.transformer.cache import KeyValueCache
from einsearch_cli.models.transformer.config import TransformerConfig, config_from
from einsearch_cli.models.transformer.model import Transformer
from einsearch_cli.models.transformer.presets import PRESETS, preset, proxy_config

__all__ = ["PRESETS", "KeyValueCache", "Transformer", "TransformerConfig", "config_from", "preset", "proxy_config"]
