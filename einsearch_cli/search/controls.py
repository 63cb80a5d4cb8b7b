"""Controls: structures that a candidate has to beat before its gain can be credited to its idea."""

from __future__ import annotations

from collections.abc import Iterable

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, Structure, expert_of
from einsearch_cli.taxonomy import taxonomy_of


def controls_of(candidate: LayerSpec) -> tuple[LayerSpec, ...]:
    """The candidate without its experts, and the candidate without its bonds.

    Without its bonds, a structure has to keep its factors and a rank that grows with the width, so low-rank has no such
    control. The control of whole networks as experts is dense, which every study trains.

    >>> from einsearch_cli.structures import parse_layer, short_name
    >>> texts = ("btt-moe:experts=8,top=2", "btt:r=4", "tt:r=2", "low-rank", "monarch", "ffn-moe:experts=8,top=2")
    >>> [[short_name(control) for control in controls_of(parse_layer(text))] for text in texts]
    [['monarch'], ['monarch'], ['kronecker'], [], [], ['dense']]
    """
    plain = expert_of(candidate)
    without_experts = [plain] if isinstance(candidate, MixtureOfExperts) else []
    without_bonds = _without_bonds(plain)
    return (*without_experts, *([] if without_bonds is None else [without_bonds]))


def with_controls(candidates: Iterable[LayerSpec]) -> dict[LayerSpec, tuple[LayerSpec, ...]]:
    """Each control that is not a candidate itself, with the candidates to which it belongs."""
    listed = list(candidates)
    found: dict[LayerSpec, tuple[LayerSpec, ...]] = {}
    for candidate in listed:
        for control in controls_of(candidate):
            if control not in listed:
                found[control] = (*found.get(control, ()), candidate)
    return found


def _without_bonds(structure: Structure) -> Structure | None:
    kept = {carriers: extent for carriers, extent in structure.indices if set("XY") & set(carriers)}
    if len(kept) == len(structure.indices):
        return None
    try:
        found = Structure.of(kept, block_diagonal=structure.is_block_diagonal)
    except StructureError:
        return None
    same_factors = len(found.factors) == len(structure.factors)
    return found if same_factors and taxonomy_of(found).psi > 0 else None
