"""Layers of experts: routing, sparse execution, and the loss that keeps the load balanced."""

from einsearch_cli.layers.moe.auxiliary import AuxiliaryLoss as AuxiliaryLoss
from einsearch_cli.layers.moe.feed_forward import FeedForwardMoE as FeedForwardMoE
from einsearch_cli.layers.moe.layer import StructuredMoE as StructuredMoE
from einsearch_cli.structures import AUXILIARY_WEIGHT as AUXILIARY_WEIGHT, RoutingStatistics as RoutingStatistics
