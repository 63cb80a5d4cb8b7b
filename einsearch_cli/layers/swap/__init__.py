"""Swapping the linear layers of a model: plan it, show it, then do it."""

from einsearch_cli.layers.swap.applying import apply_swaps as apply_swaps, swap_linear as swap_linear
from einsearch_cli.layers.swap.attention import SplitMultiheadAttention as SplitMultiheadAttention
from einsearch_cli.layers.swap.finding import DenseLayer as DenseLayer
from einsearch_cli.layers.swap.planning import Filter as Filter, plan_swaps as plan_swaps
from einsearch_cli.layers.swap.report import Costs as Costs, Kept as Kept, Swap as Swap, SwapReport as SwapReport
from einsearch_cli.layers.swap.weights import kept_weights as kept_weights
