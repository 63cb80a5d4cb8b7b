"""Explains why a generic rank is below the bound by cuts."""

from __future__ import annotations

from einsearch_cli.sizing import SizedStructure
from einsearch_cli.sizing.cut_bounds import clipped
from einsearch_cli.sizing.generic_rank import NUMERIC, GenericRank
from einsearch_cli.sizing.modular import PRIMES, rank_mod
from einsearch_cli.sizing.random_matrix import random_matrix
from einsearch_cli.taxonomy.exponents import Cut

_SPACES = {"X": "column", "Y": "row"}


def why_below_bound(sized: SizedStructure, found: GenericRank, cut: Cut) -> str | None:
    """A sentence that names the cut and, if there is one, the index along which rank is lost.

    None if the bound is reached.
    """
    if found.rank == found.bound:
        return None
    slices = None if sized.padding or found.method == NUMERIC else _dependent_slices(sized, found)
    reason = slices or "the matrices that the factors can form there are only part of all matrices of that rank"
    return (
        f"the generic rank {found.rank:,} is below the bound {found.bound:,}: "
        f"the cut {cut} would let {found.bound:,} through, but {reason}"
    )


def _dependent_slices(sized: SizedStructure, found: GenericRank) -> str | None:
    """The input or output index whose slices have ranks that sum to the bound, but dependent spaces."""
    candidates = []
    for carriers, size in sized.sizes:
        side = carriers[0]
        if size > 1 and side in _SPACES and len(carriers) > 2:
            sizes = clipped({c: size for c, size in sized.sizes if c != carriers})
            rank = rank_mod(random_matrix(sizes, PRIMES[0], seed=0), PRIMES[0])
            if size * rank >= found.bound:
                candidates.append((size * rank, size, carriers, rank, _SPACES[side]))
    if not candidates:
        return None
    _, size, carriers, rank, space = min(candidates)
    return (
        f"its {size} slices along {carriers} have rank {rank:,} each and {space} spaces that are never independent: "
        f"together they span {found.rank:,} dimensions"
    )
