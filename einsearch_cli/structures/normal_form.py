"""The normal form: carrier maps that describe the same structure are brought to one map.

Potapczynski et al. 2024 treat two factors; the rules below hold for any
number. A carrier set is a `frozenset` of the tensor names `X`, `Y` and the
factor letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import combinations

from einsearch_cli.structures.extent import ONE, Extent

FACTOR_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWZ"
MAX_FACTORS = 8
"""The most factors of a structure: at worst, all 8! = 40,320 orders are equally cheap and compared in two seconds."""

D = Extent.power(Fraction(1))
Carriers = frozenset[str]
Extents = dict[Carriers, Extent]


def text_of_carriers(carriers: Carriers) -> str:
    """`XAB`: the input or output first, then the factors in order."""
    return "".join(sorted(carriers, key=lambda tensor: (tensor != "X", tensor != "Y", tensor)))


def factors_of(indices: Iterable[Carriers]) -> list[str]:
    return sorted({tensor for carriers in indices for tensor in carriers} - {"X", "Y"})


def reduce(extents: Mapping[Carriers, Extent]) -> Extents:
    """Absorb factors that another one can hold and sum away bonds left in one factor.

    A factor all of whose indices are carried by another factor adds nothing:
    the product of the two is one factor of the other's shape. Taking it out
    can leave a bond in a single factor, which is then summed away, and so on.
    The result does not depend on the order in which factors are taken out.
    """
    current = {c: extent for c, extent in extents.items() if not extent.is_one}
    while (superfluous := _absorbable(current)) is not None:
        merged: Extents = {}
        for carriers, extent in current.items():
            rest = carriers - {superfluous}
            merged[rest] = merged.get(rest, ONE) * extent
        current = {c: extent for c, extent in merged.items() if c and not extent.is_one}
    return {c: _within_dimension(extent) for c, extent in current.items() if len(c) > 1}


def _within_dimension(extent: Extent) -> Extent:
    """The extent of a bond, d at most: merging bonds, when a factor is taken out, can exceed that."""
    return D if extent.exponent > 1 else extent


def _absorbable(extents: Extents) -> str | None:
    """A factor whose indices another one carries as well, or None; bonds of one factor do not count."""
    live = [carriers for carriers in extents if len(carriers) > 1]
    factors = factors_of(extents)
    for factor in factors:
        own = [carriers for carriers in live if factor in carriers]
        if len(factors) > 1 and (not own or any(all(o in c for c in own) for o in factors if o != factor)):
            return factor
    return None


def carrier_classes(factors: int, block_diagonal: bool = False) -> Iterator[Carriers]:
    """All index classes in the order of the θ vector: (shared by X and Y,) input, output, bonds.

    >>> [text_of_carriers(c) for c in carrier_classes(2)]
    ['XA', 'XB', 'XAB', 'YA', 'YB', 'YAB', 'AB']
    """
    letters = FACTOR_LETTERS[:factors]
    subsets = [frozenset(s) for size in range(1, factors + 1) for s in combinations(letters, size)]
    if block_diagonal:
        yield from (subset | {"X", "Y"} for subset in (frozenset[str](), *subsets))
    yield from (subset | {"X"} for subset in subsets)
    yield from (subset | {"Y"} for subset in subsets)
    yield from (subset for subset in subsets if len(subset) > 1)
