"""Self-guided training: a dense matrix guides a structured layer through the first part of training."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.guided.guide import SelfGuide as SelfGuide, guide_layers as guide_layers
    from einsearch_cli.guided.layer import SelfGuidedLinear as SelfGuidedLinear
    from einsearch_cli.guided.weighting import (
        flop_matched_guide as flop_matched_guide,
        guide_is_evaluated as guide_is_evaluated,
        guide_weight as guide_weight,
    )
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
