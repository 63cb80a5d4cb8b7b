"""What is known of a structure without training: ω, ψ, ν, rank bound, parameters, FLOPs, verdict."""

from einsearch_cli.taxonomy.classification import Classification, classify
from einsearch_cli.taxonomy.costs import (
    ContractionOrder,
    contraction_orders,
    first_step_flops,
    flops_formula,
    flops_per_token,
    formula_texts,
    meeting_order,
    params_formula,
    rank_bound,
)
from einsearch_cli.taxonomy.criteria import CRITERIA, Bounds
from einsearch_cli.taxonomy.exponents import Cut, Taxonomy, taxonomy_of
from einsearch_cli.taxonomy.layer_costs import LayerCosts, layer_costs
from einsearch_cli.taxonomy.limits import EVERYTHING, ExponentRange, common_unit, parse_range
from einsearch_cli.taxonomy.space import (
    Found,
    Space,
    SpaceCounts,
    best_first,
    count,
    refuse_too_large,
    search,
    survivors,
)
from einsearch_cli.taxonomy.trees import TreeTaxonomy, tree_taxonomy

__all__ = [
    "CRITERIA",
    "EVERYTHING",
    "Bounds",
    "Classification",
    "ContractionOrder",
    "Cut",
    "ExponentRange",
    "Found",
    "LayerCosts",
    "Space",
    "SpaceCounts",
    "Taxonomy",
    "TreeTaxonomy",
    "best_first",
    "classify",
    "common_unit",
    "contraction_orders",
    "count",
    "first_step_flops",
    "flops_formula",
    "flops_per_token",
    "formula_texts",
    "layer_costs",
    "meeting_order",
    "params_formula",
    "parse_range",
    "rank_bound",
    "refuse_too_large",
    "search",
    "survivors",
    "taxonomy_of",
    "tree_taxonomy",
]
