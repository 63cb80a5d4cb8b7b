"""Families with one or two factors."""

from __future__ import annotations

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.families.family import HALF, Family, Formulas, Values
from einsearch_cli.structures.normal_form import D


def _block_shuffle(values: Values) -> dict[str, Extent]:
    blocks = values["blocks"]
    if not blocks.is_fixed:
        raise StructureError(
            f"block-shuffle with {blocks.size_text} blocks: the number of blocks must be fixed",
            remedy="block-shuffle:blocks=4, or btt:r=d^1/2,blocks=d^1/4",
        )
    return {"XA": D / blocks, "XAB": blocks, "YAB": blocks, "YB": D / blocks, "AB": D / (blocks * blocks)}


def _block_dense(values: Values) -> dict[str, Extent]:
    blocks = values["blocks"]
    return {"XA": D / blocks, "XAB": blocks, "AB": values["r"] / blocks, "YB": D}


DENSE = Family(
    name="dense",
    carriers="XA YA",
    parameters={},
    build=lambda _: {"XA": D, "YA": D},
    formulas=Formulas("0", "1", "1"),
    source="one matrix",
    factors=lambda _: 1,
)
LOW_RANK = Family(
    name="low-rank",
    carriers="XA AB=r YB",
    parameters={"r": HALF},
    build=lambda v: {"XA": D, "AB": v["r"], "YB": D},
    formulas=Formulas("0", "ρ", "ρ"),
    source="Wei et al. 2024",
)
BLOCK_SHUFFLE = Family(
    name="block-shuffle",
    carriers="XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks AB=d/blocks^2",
    parameters={"blocks": Extent.fixed(4)},
    build=_block_shuffle,
    formulas=Formulas("0", "1", "1"),
    source="Wei et al. 2024",
    counts_back=True,
)
BLOCK_DENSE = Family(
    name="block-dense",
    carriers="XA=d/blocks XAB=blocks AB=r/blocks YB",
    parameters={"blocks": Extent.fixed(4), "r": None},
    build=_block_dense,
    guess=lambda s: {"blocks": s.extent("XAB"), "r": s.extent("XAB") * s.extent("AB")},
    formulas=Formulas("0", "ρ", "ρ", "β ≤ ρ"),
    source="Wei et al. 2024; r is the rank of the whole layer",
    by_carriers=True,
    counts_back=True,
)
