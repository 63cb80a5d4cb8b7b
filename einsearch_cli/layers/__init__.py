"""Structured linear layers for torch."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.layers.einsum_linear import EinsumLinear as EinsumLinear
    from einsearch_cli.layers.explanation import LayerExplanation as LayerExplanation
    from einsearch_cli.layers.feature_orders import layer_orders as layer_orders, set_layer_orders_ as set_layer_orders_
    from einsearch_cli.layers.learning_rates import learning_rate_multipliers as learning_rate_multipliers
    from einsearch_cli.layers.merging import merge as merge, merged as merged, unmerge as unmerge
    from einsearch_cli.layers.plans.layout import plan_for as plan_for
    from einsearch_cli.layers.plans.plan import Plan as Plan
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
