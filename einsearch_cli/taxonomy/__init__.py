"""The properties of a structure that need no training: ω, ψ, ν, rank bound, parameters, FLOPs, verdict."""

from einsearch_cli.taxonomy.classification import Classification as Classification, classify as classify
from einsearch_cli.taxonomy.costs import (
    contraction_orders as contraction_orders,
    first_step_flops as first_step_flops,
    flops_per_token as flops_per_token,
    formula_texts as formula_texts,
    layer_costs as layer_costs,
    meeting_order as meeting_order,
    rank_bound as rank_bound,
    readable_formula as readable_formula,
)
from einsearch_cli.taxonomy.criteria import Bounds as Bounds
from einsearch_cli.taxonomy.exponents import Cut as Cut, Taxonomy as Taxonomy, taxonomy_of as taxonomy_of
from einsearch_cli.taxonomy.limits import (
    EVERYTHING as EVERYTHING,
    ExponentRange as ExponentRange,
    common_unit as common_unit,
    parse_range as parse_range,
)
from einsearch_cli.taxonomy.space import (
    Found as Found,
    Space as Space,
    SpaceCounts as SpaceCounts,
    best_first as best_first,
    count as count,
    refuse_too_large as refuse_too_large,
    search as search,
    survivors as survivors,
)
