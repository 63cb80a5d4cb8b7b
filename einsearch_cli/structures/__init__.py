"""Structures of linear layers: carrier sets with extents, notations, families, and the space of all structures."""

from einsearch_cli.structures.carrier_notation import structure_of_terms as structure_of_terms, theta_of as theta_of
from einsearch_cli.structures.extent import Extent as Extent
from einsearch_cli.structures.families import (
    FAMILIES as FAMILIES,
    Family as Family,
    family_of as family_of,
    family_text as family_text,
    standard_order as standard_order,
)
from einsearch_cli.structures.feature_order import FeatureOrder as FeatureOrder
from einsearch_cli.structures.moe import (
    LayerSpec as LayerSpec,
    MixtureOfExperts as MixtureOfExperts,
    NamedStructure as NamedStructure,
    expert_of as expert_of,
    layer_family as layer_family,
    layer_of_json as layer_of_json,
    short_name as short_name,
    short_text as short_text,
)
from einsearch_cli.structures.notation import (
    notations as notations,
    parse_layer as parse_layer,
    parse_structure as parse_structure,
    read_structure as read_structure,
)
from einsearch_cli.structures.routing_statistics import (
    AUXILIARY_WEIGHT as AUXILIARY_WEIGHT,
    RoutingStatistics as RoutingStatistics,
)
from einsearch_cli.structures.spec_file import (
    is_structure_file as is_structure_file,
    read_structure_file as read_structure_file,
    read_structure_lines as read_structure_lines,
    structure_of_entry as structure_of_entry,
)
from einsearch_cli.structures.structure import Structure as Structure
