"""Structured linear layers for torch, and swapping them into a model."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.layers.einsum_linear import EinsumLinear
    from einsearch_cli.layers.feature_orders import layer_orders, set_layer_orders_
    from einsearch_cli.layers.guided import (
        SelfGuide,
        SelfGuidedLinear,
        flop_matched_guide,
        guide_is_evaluated,
        guide_layers,
        guide_weight,
    )
    from einsearch_cli.layers.initialisation import initialise_
    from einsearch_cli.layers.initialisation_names import INITIALISATIONS, Initialisation
    from einsearch_cli.layers.learning_rates import learning_rate_multipliers
    from einsearch_cli.layers.merging import merge, merged, unmerge
    from einsearch_cli.layers.moe import (
        AUXILIARY_WEIGHT,
        AuxiliaryLoss,
        FeedForwardMoE,
        RoutingStatistics,
        StructuredMoE,
    )
    from einsearch_cli.layers.plans.layout import plan_for
    from einsearch_cli.layers.plans.plan import FactorRole, Plan, factor_roles
    from einsearch_cli.layers.projection import Projection, project_
    from einsearch_cli.layers.swap import (
        Costs,
        DenseLayer,
        Filter,
        Kept,
        SplitMultiheadAttention,
        Swap,
        SwapReport,
        apply_swaps,
        kept_weights,
        plan_swaps,
        swap_linear,
    )
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "einsum_linear": ("EinsumLinear",),
            "feature_orders": ("layer_orders", "set_layer_orders_"),
            "guided": (
                "SelfGuide",
                "SelfGuidedLinear",
                "flop_matched_guide",
                "guide_is_evaluated",
                "guide_layers",
                "guide_weight",
            ),
            "initialisation": ("initialise_",),
            "initialisation_names": ("INITIALISATIONS", "Initialisation"),
            "learning_rates": ("learning_rate_multipliers",),
            "merging": ("merge", "merged", "unmerge"),
            "moe": ("AUXILIARY_WEIGHT", "AuxiliaryLoss", "FeedForwardMoE", "RoutingStatistics", "StructuredMoE"),
            "plans.layout": ("plan_for",),
            "plans.plan": ("FactorRole", "Plan", "factor_roles"),
            "projection": ("Projection", "project_"),
            "swap": (
                "Costs",
                "DenseLayer",
                "Filter",
                "Kept",
                "SplitMultiheadAttention",
                "Swap",
                "SwapReport",
                "apply_swaps",
                "kept_weights",
                "plan_swaps",
                "swap_linear",
            ),
        },
    )

__all__ = [
    "AUXILIARY_WEIGHT",
    "INITIALISATIONS",
    "AuxiliaryLoss",
    "Costs",
    "DenseLayer",
    "EinsumLinear",
    "FactorRole",
    "FeedForwardMoE",
    "Filter",
    "Initialisation",
    "Kept",
    "Plan",
    "Projection",
    "RoutingStatistics",
    "SelfGuide",
    "SelfGuidedLinear",
    "SplitMultiheadAttention",
    "StructuredMoE",
    "Swap",
    "SwapReport",
    "apply_swaps",
    "factor_roles",
    "flop_matched_guide",
    "guide_is_evaluated",
    "guide_layers",
    "guide_weight",
    "initialise_",
    "kept_weights",
    "layer_orders",
    "learning_rate_multipliers",
    "merge",
    "merged",
    "plan_for",
    "plan_swaps",
    "project_",
    "set_layer_orders_",
    "swap_linear",
    "unmerge",
]
