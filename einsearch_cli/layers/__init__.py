"""Structured linear layers for torch, and swapping them into a model."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.layers.einsum_linear import EinsumLinear as EinsumLinear
    from einsearch_cli.layers.feature_orders import layer_orders as layer_orders, set_layer_orders_ as set_layer_orders_
    from einsearch_cli.layers.guided import (
        SelfGuide as SelfGuide,
        SelfGuidedLinear as SelfGuidedLinear,
        flop_matched_guide as flop_matched_guide,
        guide_is_evaluated as guide_is_evaluated,
        guide_layers as guide_layers,
        guide_weight as guide_weight,
    )
    from einsearch_cli.layers.initialisation import initialise_ as initialise_
    from einsearch_cli.layers.initialisation_names import (
        INITIALISATIONS as INITIALISATIONS,
        Initialisation as Initialisation,
    )
    from einsearch_cli.layers.learning_rates import learning_rate_multipliers as learning_rate_multipliers
    from einsearch_cli.layers.merging import merge as merge, merged as merged, unmerge as unmerge
    from einsearch_cli.layers.moe import (
        AUXILIARY_WEIGHT as AUXILIARY_WEIGHT,
        AuxiliaryLoss as AuxiliaryLoss,
        FeedForwardMoE as FeedForwardMoE,
        RoutingStatistics as RoutingStatistics,
        StructuredMoE as StructuredMoE,
    )
    from einsearch_cli.layers.plans.layout import plan_for as plan_for
    from einsearch_cli.layers.plans.plan import FactorRole as FactorRole, Plan as Plan, factor_roles as factor_roles
    from einsearch_cli.layers.projection import Projection as Projection, project_ as project_
    from einsearch_cli.layers.swap import (
        Costs as Costs,
        DenseLayer as DenseLayer,
        Filter as Filter,
        Kept as Kept,
        SplitMultiheadAttention as SplitMultiheadAttention,
        Swap as Swap,
        SwapReport as SwapReport,
        apply_swaps as apply_swaps,
        kept_weights as kept_weights,
        plan_swaps as plan_swaps,
        swap_linear as swap_linear,
    )
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
