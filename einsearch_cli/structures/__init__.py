"""What a structure is: carrier sets with extents, notations, families, and the space of them."""

from einsearch_cli.structures.carrier_notation import THETA_CARRIERS, structure_of_terms, theta_of, theta_text
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.families import FAMILIES, Family, family_of, family_text, standard_order
from einsearch_cli.structures.feature_order import FeatureOrder
from einsearch_cli.structures.moe import (
    LayerSpec,
    MixtureOfExperts,
    expert_of,
    layer_family,
    layer_of_json,
    short_name,
    short_text,
)
from einsearch_cli.structures.notation import NamedStructure, notations, parse_layer, parse_structure, read_structure
from einsearch_cli.structures.routing_statistics import AUXILIARY_WEIGHT, RoutingStatistics
from einsearch_cli.structures.spec_file import (
    is_structure_file,
    read_structure_file,
    read_structure_lines,
    structure_of_entry,
)
from einsearch_cli.structures.structure import Structure

__all__ = [
    "AUXILIARY_WEIGHT",
    "FAMILIES",
    "THETA_CARRIERS",
    "Extent",
    "Family",
    "FeatureOrder",
    "LayerSpec",
    "MixtureOfExperts",
    "NamedStructure",
    "RoutingStatistics",
    "Structure",
    "expert_of",
    "family_of",
    "family_text",
    "is_structure_file",
    "layer_family",
    "layer_of_json",
    "notations",
    "parse_layer",
    "parse_structure",
    "read_structure",
    "read_structure_file",
    "read_structure_lines",
    "short_name",
    "short_text",
    "standard_order",
    "structure_of_entry",
    "structure_of_terms",
    "theta_of",
    "theta_text",
]
