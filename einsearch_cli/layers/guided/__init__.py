"""Self-guided training: a dense matrix leads a structured layer through the first part of training."""

from einsearch_cli.layers.guided.guide import SelfGuide as SelfGuide, guide_layers as guide_layers
from einsearch_cli.layers.guided.layer import SelfGuidedLinear as SelfGuidedLinear
from einsearch_cli.layers.guided.weighting import (
    flop_matched_guide as flop_matched_guide,
    guide_is_evaluated as guide_is_evaluated,
    guide_weight as guide_weight,
)
