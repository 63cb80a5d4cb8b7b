"""Layers of experts: routing, sparse execution, and the loss that keeps the load balanced."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.moe.auxiliary import AuxiliaryLoss as AuxiliaryLoss
    from einsearch_cli.moe.feed_forward import FeedForwardMoE as FeedForwardMoE
    from einsearch_cli.moe.layer import StructuredMoE as StructuredMoE
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
