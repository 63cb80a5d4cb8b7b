"""The networks that are trained, `MLP` and `Transformer`; their costs are counted without torch."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.models.base import (
        LinearRule as LinearRule,
        StructuredNetwork as StructuredNetwork,
        structured_linear as structured_linear,
    )
    from einsearch_cli.models.counts import TRAINING_TO_FORWARD as TRAINING_TO_FORWARD, FlopCount as FlopCount
    from einsearch_cli.models.mlp import MLP as MLP
    from einsearch_cli.models.transformer import (
        PRESETS as PRESETS,
        KeyValueCache as KeyValueCache,
        Transformer as Transformer,
        TransformerConfig as TransformerConfig,
        config_from as config_from,
        preset as preset,
        proxy_config as proxy_config,
    )
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
