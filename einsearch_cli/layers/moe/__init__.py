"""Layers of experts: routing, sparse execution, and the loss that keeps the load balanced."""

from einsearch_cli.layers.moe.auxiliary import AuxiliaryLoss
from einsearch_cli.layers.moe.feed_forward import FeedForwardMoE
from einsearch_cli.layers.moe.layer import StructuredMoE
from einsearch_cli.structures import AUXILIARY_WEIGHT, RoutingStatistics

__all__ = ["AUXILIARY_WEIGHT", "AuxiliaryLoss", "FeedForwardMoE", "RoutingStatistics", "StructuredMoE"]
