"""Structured linear layers for torch, and swapping them into a model."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.layers.calibration.compressing import Progress as Progress, compress as compress
    from einsearch_cli.layers.einsum_linear import EinsumLinear as EinsumLinear
    from einsearch_cli.layers.explanation import LayerExplanation as LayerExplanation
    from einsearch_cli.layers.feature_orders import layer_orders as layer_orders, set_layer_orders_ as set_layer_orders_
    from einsearch_cli.layers.guided.guide import SelfGuide as SelfGuide, guide_layers as guide_layers
    from einsearch_cli.layers.guided.layer import SelfGuidedLinear as SelfGuidedLinear
    from einsearch_cli.layers.guided.weighting import (
        flop_matched_guide as flop_matched_guide,
        guide_is_evaluated as guide_is_evaluated,
        guide_weight as guide_weight,
    )
    from einsearch_cli.layers.initialisation import initialise_ as initialise_
    from einsearch_cli.layers.initialisation_names import (
        INITIALISATIONS as INITIALISATIONS,
        Initialisation as Initialisation,
    )
    from einsearch_cli.layers.learning_rates import learning_rate_multipliers as learning_rate_multipliers
    from einsearch_cli.layers.merging import merge as merge, merged as merged, unmerge as unmerge
    from einsearch_cli.layers.moe.auxiliary import AuxiliaryLoss as AuxiliaryLoss
    from einsearch_cli.layers.moe.feed_forward import FeedForwardMoE as FeedForwardMoE
    from einsearch_cli.layers.moe.layer import StructuredMoE as StructuredMoE
    from einsearch_cli.layers.plans.layout import plan_for as plan_for
    from einsearch_cli.layers.plans.plan import Plan as Plan
    from einsearch_cli.layers.projection.projecting import Projection as Projection, project_ as project_
    from einsearch_cli.layers.swap.applying import apply_swaps as apply_swaps, swap_linear as swap_linear
    from einsearch_cli.layers.swap.attention import SplitMultiheadAttention as SplitMultiheadAttention
    from einsearch_cli.layers.swap.finding import DenseLayer as DenseLayer
    from einsearch_cli.layers.swap.planning import Filter as Filter, plan_swaps as plan_swaps
    from einsearch_cli.layers.swap.report import Costs as Costs, Kept as Kept, Swap as Swap, SwapReport as SwapReport
    from einsearch_cli.layers.swap.weights import kept_weights as kept_weights
    from einsearch_cli.structures import RoutingStatistics as RoutingStatistics
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
