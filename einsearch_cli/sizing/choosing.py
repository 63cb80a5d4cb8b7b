"""Integer sizes for given dimensions: exact factorizations, never a lost input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from einsearch_cli.errors import SizeError
from einsearch_cli.sizing.cut_bounds import cut_bound, path_bound
from einsearch_cli.sizing.side_sizes import nearest_sides
from einsearch_cli.sizing.sized import SizedStructure
from einsearch_cli.structures.extent import MAX_DIMENSION
from einsearch_cli.structures.structure import Structure

_MAX_ELIMINATIONS = 8
"""The most equally near sizes whose rank is computed with a matrix; the rank of the others is taken to be its bound."""


def choose_sizes(structure: Structure, d_in: int, d_out: int) -> SizedStructure:
    """Integer sizes nearest in log distance to the extents, with products of exactly d.

    Fixed sizes stay as they are, and bonds are rounded. Where no factorization of d has every size within a factor of
    two of its extent (a prime, or 770 in 4 blocks), the dimension is padded to the next one that has. Rounding d**θ to
    whole numbers, the obvious alternative, loses inputs: 768 by 1/4, 1/4 and 1/2 would become 5·5·28 = 700.

    Ties are broken by generic rank (the largest wins), then by the parameter count nearest to that of the exact
    extents. For example, a Monarch matrix at d = 2048 takes 32 × 64 and 64 × 32 blocks, 1.06 times the 2·d^(3/2)
    parameters, and not 64 blocks twice, 1.41 times.

    Raises:
        SizeError: if a dimension is below 1 or a fixed size does not fit into it.
    """
    for name, d in (("d_in", d_in), ("d_out", d_out)):
        if not 1 <= d <= MAX_DIMENSION:
            raise SizeError(f"{name} = {d}: dimensions must be from 1 to 2^48", remedy=f"choose {name} in that range")
    sides = nearest_sides(structure, d_in, d_out)
    if len(sides) == 1:
        return _sized(structure, d_in, d_out, sides[0]).ordered(structure.order)
    return _of_largest_rank(structure, d_in, d_out).ordered(structure.order)


def _sized(structure: Structure, d_in: int, d_out: int, sides: Mapping[str, int]) -> SizedStructure:
    padded_in, padded_out = (math.prod(size for c, size in sides.items() if tensor in c) for tensor in "XY")
    bonds = {c: max(1, round(extent.at(min(d_in, d_out)))) for c, extent in structure.indices if c not in sides}
    ordered = tuple((c, sides[c] if c in sides else bonds[c]) for c, _ in structure.indices)
    return SizedStructure(structure, d_in, d_out, padded_in, padded_out, ordered)


@lru_cache(maxsize=256)
def _of_largest_rank(structure: Structure, d_in: int, d_out: int) -> SizedStructure:
    """The best of equally near sizes: largest generic rank, then parameters nearest to those of the exact extents."""
    sides = nearest_sides(structure, d_in, d_out)
    ties = sorted((_sized(structure, d_in, d_out, some) for some in sides), key=_distance_in_params)
    best, best_rank, eliminations = ties[0], 0, 0
    for sized in ties:
        bound = min(cut_bound(dict(sized.sizes)), d_in, d_out)
        if bound <= best_rank:
            continue
        rank = bound
        if not _reached(bound, sized) and eliminations < _MAX_ELIMINATIONS:
            rank, eliminations = _rank_if_cheap(sized, bound), eliminations + 1
        if rank > best_rank:
            best, best_rank = sized, rank
        if best_rank == min(d_in, d_out):
            break
    return best


def _distance_in_params(sized: SizedStructure) -> float:
    """|log(parameters / parameters of the exact extents)|, rounded so that what is equal is equal."""
    base = {"X": sized.d_in, "Y": sized.d_out}
    exact = {
        carriers: extent.at(next((base[tensor] for tensor in "XY" if tensor in carriers), min(base.values())))
        for carriers, extent in sized.structure.indices
    }
    params = sum(math.prod(exact[carriers] for carriers in sized.carriers_of(f)) for f in sized.factors)
    return round(abs(math.log(sized.params / params)), 9)


def _reached(bound: int, sized: SizedStructure) -> bool:
    """Whether disjoint paths prove that the rank reaches the bound; this needs no matrix."""
    return sized.padding is None and path_bound(dict(sized.sizes)) >= bound


def _rank_if_cheap(sized: SizedStructure, bound: int) -> int:
    """The generic rank, or its bound where the matrix is large."""
    from einsearch_cli.sizing.generic_rank import generic_rank_if_cheap

    found = generic_rank_if_cheap(sized)
    return bound if found is None else found
