"""Swapping the linear layers of a model: plan it, show it, then do it."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.swap.applying import apply_swaps as apply_swaps, swap_linear as swap_linear
    from einsearch_cli.swap.attention import SplitMultiheadAttention as SplitMultiheadAttention
    from einsearch_cli.swap.finding import DenseLayer as DenseLayer
    from einsearch_cli.swap.planning import Filter as Filter, plan_swaps as plan_swaps
    from einsearch_cli.swap.report import Costs as Costs, Kept as Kept, Swap as Swap, SwapReport as SwapReport
    from einsearch_cli.swap.weights import kept_weights as kept_weights
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
