"""A decoder-only transformer whose layers may be structured: config, presets, network, key-value cache, costs.

The network and its cache load torch on first use; everything else is arithmetic.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names
from einsearch_cli.models.transformer.accounting import (
    ModelCosts as ModelCosts,
    Part as Part,
    dense_twin as dense_twin,
    model_costs as model_costs,
)
from einsearch_cli.models.transformer.config import TransformerConfig as TransformerConfig, config_from as config_from
from einsearch_cli.models.transformer.presets import (
    PRESETS as PRESETS,
    ModelSettings as ModelSettings,
    preset as preset,
    proxy_config as proxy_config,
)
from einsearch_cli.models.transformer.resources import (
    UTILISATION as UTILISATION,
    Accelerator as Accelerator,
    Estimate as Estimate,
    accelerator as accelerator,
    estimate as estimate,
)

if TYPE_CHECKING:
    from einsearch_cli.models.transformer.key_value_cache import KeyValueCache as KeyValueCache
    from einsearch_cli.models.transformer.model import Transformer as Transformer, meta_transformer as meta_transformer
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
