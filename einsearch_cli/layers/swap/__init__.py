"""Swapping the linear layers of a model: plan it, show it, then do it."""

from einsearch_cli.layers.swap.applying import apply_swaps, swap_linear
from einsearch_cli.layers.swap.attention import SplitMultiheadAttention
from einsearch_cli.layers.swap.finding import DenseLayer
from einsearch_cli.layers.swap.planning import Filter, plan_swaps
from einsearch_cli.layers.swap.report import Costs, Kept, Swap, SwapReport
from einsearch_cli.layers.swap.weights import kept_weights

__all__ = [
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
]
