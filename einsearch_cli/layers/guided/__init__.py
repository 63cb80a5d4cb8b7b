"""Self-guided training: a dense matrix leads a structured layer through the first part of training."""

from einsearch_cli.layers.guided.guide import SelfGuide, guide_layers
from einsearch_cli.layers.guided.layer import SelfGuidedLinear
from einsearch_cli.layers.guided.weighting import flop_matched_guide, guide_is_evaluated, guide_weight

__all__ = [
    "SelfGuide",
    "SelfGuidedLinear",
    "flop_matched_guide",
    "guide_is_evaluated",
    "guide_layers",
    "guide_weight",
]
