"""Named families: text with parameters in, structure out; and the name of a structure."""

from einsearch_cli.structures.families.any_order import BTT, CP, KHATRI_RAO, KRONECKER, MONARCH, TT, TUCKER
from einsearch_cli.structures.families.family import (
    FAMILIES,
    Family,
    Formulas,
    carriers_at,
    find_family,
    parse_family,
    register,
    usage,
)
from einsearch_cli.structures.families.recognition import family_of, family_text, standard_order
from einsearch_cli.structures.families.two_factors import BLOCK_DENSE, BLOCK_SHUFFLE, DENSE, LOW_RANK

__all__ = [
    "FAMILIES",
    "Family",
    "Formulas",
    "carriers_at",
    "family_of",
    "family_text",
    "find_family",
    "parse_family",
    "register",
    "standard_order",
    "usage",
]

for _family in (DENSE, LOW_RANK, KRONECKER, TT, MONARCH, BLOCK_SHUFFLE, BTT, BLOCK_DENSE, KHATRI_RAO, CP, TUCKER):
    register(_family)
"""The order of registration matters: a structure that belongs to several families is named after the first one.
"""
