"""Bounds on the rank at concrete sizes, by cuts and by disjoint paths, and smaller sizes that keep the rank.

Everything here is exact integer arithmetic on a handful of sizes: no matrix is
built. Sizes map carrier sets, as text, to whole numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import chain, combinations

from einsearch_cli.sizing.factorization import prime_powers

Sizes = Mapping[str, int]


def cut_bound(sizes: Sizes) -> int:
    """The smallest cut. Every split of the tensors bounds the rank by the product of the sizes that cross it.

    >>> cut_bound({"XA": 2, "XB": 2, "XAB": 2, "YA": 3, "YB": 3})
    8
    """
    return min(math.prod(sizes[c] for c in crossing) for crossing in _cuts(sizes))


def path_bound(sizes: Sizes) -> int:
    """A rank that some choice of factors has: the number of disjoint paths from X to Y, for every prime separately.

    Cut every index into indices of prime size. By Menger's theorem, the number of paths from X to Y through indices of
    size q, no two of which use the same index, equals the number of indices in the smallest cut among these. Let the
    factors be the identity along the paths and constant elsewhere. The matrix is then a Kronecker product of identities
    and of matrices of rank 1, and its rank is q^paths, multiplied over all primes. Where all sizes are powers of one
    number this is the smallest cut (Cui et al. 2015, "Quantum Max-flow/Min-cut").

    >>> path_bound({"XA": 2, "XB": 2, "XAB": 2, "YA": 3, "YB": 3}), path_bound({"XA": 4, "YA": 4})
    (1, 4)
    """
    powers = {carriers: dict(prime_powers(size)) for carriers, size in sizes.items()}
    paths: dict[int, int] = {}
    for crossing in _cuts(sizes):
        for prime in {q for power in powers.values() for q in power}:
            width = sum(powers[carriers].get(prime, 0) for carriers in crossing)
            paths[prime] = min(width, paths.get(prime, width))
    return math.prod(prime**count for prime, count in paths.items())


def _cuts(sizes: Sizes) -> Iterator[list[str]]:
    """The indices that cross each of the 2^N splits of the tensors."""
    factors = sorted(set("".join(sizes)) - {"X", "Y"})
    for inside in chain.from_iterable(combinations(factors, count) for count in range(len(factors) + 1)):
        left = {"X", *inside}
        yield [c for c in sizes if not left.isdisjoint(c) and not left.issuperset(c)]


def clipped(sizes: Sizes, keep: str = "") -> dict[str, int]:
    """Smaller sizes with the same generic rank; indices of the tensors in `keep` stay as they are.

    Take an index that a factor shares with only one other tensor. It need not be larger than the product m of the
    factor's other indices: as a matrix with m columns, the factor then is an injective map after a factor of the
    smaller size. The other tensor takes that map up (a factor), or loses nothing to it (X and Y).

    >>> clipped({"XA": 4096, "AB": 64, "YB": 4096})
    {'XA': 64, 'AB': 64, 'YB': 64}
    """
    small = dict(sizes)
    changed = True
    while changed:
        changed = False
        for carriers in small:
            for factor in set(carriers) - {"X", "Y"} if len(carriers) == 2 and not set(carriers) & set(keep) else ():
                others = math.prod(size for c, size in small.items() if factor in c and c != carriers)
                if others < small[carriers]:
                    small[carriers], changed = others, True
    return small


def with_smallest_bonds(sizes: Sizes, bound: int) -> dict[str, int]:
    """Make bonds smaller one after another, the largest first, as long as the smallest cut stays at the bound.

    >>> with_smallest_bonds({"XA": 8, "XB": 2, "YA": 2, "YB": 8, "AB": 60}, 16)
    {'XA': 8, 'XB': 2, 'YA': 2, 'YB': 8, 'AB': 4}
    """
    slim = dict(sizes)
    for bond in sorted((c for c in sizes if not {"X", "Y"} & set(c)), key=lambda c: (-sizes[c], c)):
        allowed = range(1, sizes[bond] + 1)
        slim[bond] = allowed[bisect_left(allowed, bound, key=lambda size: cut_bound(slim | {bond: size}))]
    return slim
