"""Structures that have a wanted size in a layer: families at the fitting parameter, and structures of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from einsearch_cli.errors import EinsearchError, SizeError
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import Structure, family_of, parse_structure, short_name
from einsearch_cli.taxonomy import Bounds, Space, flops_per_token, survivors

LEAST_SHARE: Final = 0.75
"""The share of the wanted size from which on a structure counts as having it."""
_TUNED: Final = (
    "low-rank:r={}", "btt:r={}", "tt:r={}", "monarch:blocks={}", "block-shuffle:blocks={}", "block-dense:blocks=4,r={}",
    "block-dense:blocks=16,r={}",
)  # fmt: skip
"""Families with a parameter that determines the size."""
_FIXED: Final = ("monarch", "kronecker", "monarch:n=3", "kronecker:n=3")
"""Families without such a parameter."""
_GRID: Final = 4
_MOST_ENUMERATED: Final = 6
"""The number of structures from a grid that are suggested in addition to the families: the nearest in size."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The size of a layer: parameters, or FLOPs per token."""

    number: float
    of: Literal["params", "flops"]
    words: str

    def size(self, sized: SizedStructure) -> int:
        """The size of a structure in the chosen unit."""
        return sized.params if self.of == "params" else flops_per_token(sized)


def structures_of_size(d_in: int, d_out: int, wanted: Wanted) -> list[SizedStructure]:
    """Structures that have at least `LEAST_SHARE` of the wanted size in a layer, and no more than it.

    Raises:
        SizeError: there is none; the message names the nearest sizes.
    """
    found: list[tuple[int, SizedStructure]] = []
    others: list[tuple[int, SizedStructure]] = []
    for sized in _candidates(d_in, d_out, wanted):
        size = wanted.size(sized)
        (found if LEAST_SHARE * wanted.number <= size <= wanted.number else others).append((size, sized))
    if not found:
        raise _nothing(wanted, others, d_in, d_out)
    unique: dict[frozenset[tuple[str, int]], SizedStructure] = {}
    for _, item in found:  # families that are one structure at these sizes are listed once
        unique.setdefault(frozenset((carriers, size) for carriers, size in item.sizes if size > 1), item)
    return list(unique.values())


def _candidates(d_in: int, d_out: int, wanted: Wanted) -> Iterator[SizedStructure]:
    """Families at the parameter whose size is nearest from below, families without a parameter, and a grid."""
    for text in _TUNED:
        yield from _tuned(text, d_in, d_out, wanted)
    for text in _FIXED:
        yield from _at(parse_structure(text), d_in, d_out)
    families = {parse_structure(text) for text in _FIXED}
    space = Space(_GRID, 2, Bounds(Fraction(1, 2)))
    grid = [(abs(math.log(_rough_size(s, d_in, d_out, wanted) / wanted.number)), s) for s in survivors(space)]
    near = sorted((away, str(s), s) for away, s in grid if s not in families and family_of(s) != "dense")
    for _, _, structure in near[:_MOST_ENUMERATED]:
        yield from _at(structure, d_in, d_out)


def _at(structure: Structure, d_in: int, d_out: int) -> Iterator[SizedStructure]:
    """The structure at these dimensions, if it has sizes without padding."""
    try:
        sized = structure.at(d_in, d_out)
    except EinsearchError:
        return
    if sized.padding is None:
        yield sized


def exact_sizes(structure: Structure, d_in: int, d_out: int) -> dict[str, float]:
    """The size of each index in a layer, not rounded to an integer."""
    base = {"X": d_in, "Y": d_out}
    return {
        carriers: extent.at(next((base[tensor] for tensor in "XY" if tensor in carriers), min(base.values())))
        for carriers, extent in structure.indices
    }


def _rough_size(structure: Structure, d_in: int, d_out: int, wanted: Wanted) -> float:
    """Parameters, or FLOPs, of the exact extents: finding integers would take a hundred times as long."""
    sizes = exact_sizes(structure, d_in, d_out)
    params = sum(math.prod(size for carriers, size in sizes.items() if f in carriers) for f in structure.factors)
    return params if wanted.of == "params" else 2 * params


def _tuned(text: str, d_in: int, d_out: int, wanted: Wanted) -> Iterator[SizedStructure]:
    """The family at the parameter with the largest size up to the wanted one, and at the one before; by bisection.

    Parameters fit hardware: all numbers up to 8, then multiples of 8.
    """
    numbers = [*range(1, 8), *range(8, min(d_in, d_out) + 1, 8)]
    if text.startswith("block-dense"):  # blocks divide the rank
        numbers = list(range(16, min(d_in, d_out) + 1, 16))
    if "blocks={}" in text:
        numbers = [n for n in range(2, min(d_in, d_out) + 1) if d_in % n == 0 and d_out % n == 0]
    sized: dict[int, SizedStructure | None] = {}

    def at(place: int) -> SizedStructure | None:
        if place not in sized:
            sized[place] = next(_at(parse_structure(text.format(numbers[place])), d_in, d_out), None)
        return sized[place]

    def size(place: int) -> float:
        found = at(place)
        return math.inf if found is None else wanted.size(found)

    if not numbers:
        return
    if "blocks={}" in text:  # block-shuffle shrinks with the number of blocks; monarch is smallest in the middle
        fitting = [(size(place), place) for place in range(len(numbers))]
        best = max((item for item in fitting if item[0] <= wanted.number), default=None)
        place = min(fitting)[1] if best is None else best[1]
    else:
        low, high = 0, len(numbers) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if size(middle) <= wanted.number else (low, middle - 1)
        place = low
    if (found := at(place)) is not None:
        yield found


def _nothing(wanted: Wanted, others: Sequence[tuple[int, SizedStructure]], d_in: int, d_out: int) -> SizeError:
    below = max((item for item in others if item[0] <= wanted.number), key=lambda item: item[0], default=None)
    above = min((item for item in others if item[0] > wanted.number), key=lambda item: item[0], default=None)
    near = [f"{short_name(item[1].structure)} has {item[0]:,}" for item in (below, above) if item is not None]
    unit = "parameters" if wanted.of == "params" else "FLOPs per token"
    option = "--params" if wanted.of == "params" else "--flops"
    nearest = below or above
    return SizeError(
        f"no structure of {d_in} × {d_out} has {wanted.words}, or down to {LEAST_SHARE:.0%} of it; in {unit}, "
        f"{' and '.join(near) or 'none fits without padding'}",
        remedy="give dimensions with more divisors" if nearest is None else f"{option} {nearest[0]}",
    )
