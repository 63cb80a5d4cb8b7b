"""What is known of a structure without training: ω, ψ, ν, rank bound, parameters, FLOPs, verdict."""

from einsearch_cli.taxonomy.classification import Classification, classify
from einsearch_cli.taxonomy.costs import (
    ContractionOrder,
    contraction_orders,
    flops_formula,
    flops_per_token,
    meeting_order,
    params_formula,
    rank_bound,
)
from einsearch_cli.taxonomy.criteria import CRITERIA, Bounds
from einsearch_cli.taxonomy.exponents import Cut, Taxonomy, taxonomy_of
from einsearch_cli.taxonomy.space import EVERYTHING, Space, SpaceCounts, count, survivors

__all__ = [
    "CRITERIA",
    "EVERYTHING",
    "Bounds",
    "Classification",
    "ContractionOrder",
    "Cut",
    "Space",
    "SpaceCounts",
    "Taxonomy",
    "classify",
    "contraction_orders",
    "count",
    "flops_formula",
    "flops_per_token",
    "meeting_order",
    "params_formula",
    "rank_bound",
    "survivors",
    "taxonomy_of",
]
