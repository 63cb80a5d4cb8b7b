"""The generic rank of a structure at its sizes, by exact arithmetic with random factors modulo a prime.

Whatever rank W has for one choice of factors is a lower bound on the rank that
almost all choices have, and a matrix of integers has at least the rank that it
has modulo a prime. So the rank found here is never too large; it is too small
with a probability of at most N·r/p, the degree of an r × r minor in the entries
of the N factors by the Schwartz-Zippel lemma.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from einsearch_cli.errors import SizeError
from einsearch_cli.structures.cut_bounds import Sizes, clipped, cut_bound, path_bound, with_smallest_bonds
from einsearch_cli.structures.modular import PRIMES, Residues, product_mod, rank_mod

if TYPE_CHECKING:
    from einsearch_cli.structures.sizes import SizedStructure

MAX_ENTRIES = 2**24
"""Largest matrix that is eliminated: 4096 × 4096 takes 13 s and 600 MB."""
_TRIALS = 2
"""A rank below the bound is computed again with another prime and other factors."""
_CHEAP_WORK = 256**3
_CHEAP_ENTRIES = 2**17
"""A rank with less work than a 256 × 256 matrix takes, 25 ms, is cheap."""

EXACT = "exact mod p"
BY_PATHS = "exact by disjoint paths"


@dataclass(frozen=True, slots=True)
class RankCertificate:
    """What repeats the computation, and how far it can be trusted."""

    prime: int | None
    """The rank was computed over the field of this many elements; None if no matrix was needed."""
    seed: int | None
    """The factors are those of `random_factors` with this seed."""
    trials: int
    """Primes and seeds that were tried; the largest rank counts."""
    sizes: tuple[tuple[str, int], ...]
    """The sizes of the factors: those of the structure, or smaller ones that give the same rank."""
    chance_of_more: float
    """The generic rank is larger with at most this probability; 0 where the bound is reached."""


@dataclass(frozen=True, slots=True)
class GenericRank:
    """The rank that W has for almost all factors."""

    rank: int
    bound: int
    """The smallest cut, and no more than d_in and d_out."""
    method: str
    certificate: RankCertificate

    def to_json(self) -> dict[str, object]:
        return {
            "rank": self.rank,
            "rank_method": self.method,
            "rank_certificate": asdict(self.certificate) | {"sizes": dict(self.certificate.sizes)},
        }


def generic_rank(sized: SizedStructure, seed: int = 0) -> GenericRank:
    """The rank at these sizes for almost all factors, exactly.

    Where d is padded it is the rank of the first d_in columns and d_out rows,
    in the order of the equation.

    Raises:
        SizeError: for matrices too large to eliminate whose rank the paths do not settle.

    >>> from einsearch_cli.structures import parse_structure
    >>> found = generic_rank(parse_structure("XA^1/3 XB^1/3 XAB^1/3 YA^1/2 YB^1/2").at(8, 9))
    >>> found.rank, found.bound, found.method, found.certificate.prime
    (7, 8, 'exact mod p', 2147483647)
    """
    if seed < 0:
        raise SizeError(f"seed = {seed}: seeds must not be negative", remedy="choose a seed from 0 on")
    bound, attempts = _attempts(sized)
    best: GenericRank | None = None
    for trial, (sizes, prime) in enumerate(zip(attempts, PRIMES, strict=False)):
        if _largest_array(sizes) > MAX_ENTRIES:
            continue
        matrix = random_matrix(sizes, prime, seed + trial)[: _rows(sized, sizes), : _columns(sized, sizes)]
        rank = rank_mod(matrix, prime)
        if best is None or rank > best.rank:
            best = GenericRank(rank, bound, EXACT, RankCertificate(prime, seed + trial, 1, tuple(sizes.items()), 0.0))
        if rank == bound:
            return best
    if best is None or _largest_array(attempts[-1]) > MAX_ENTRIES:
        return _by_paths(sized, attempts[-1], bound)
    degree = len(sized.factors) * (best.rank + 1)
    chance = (degree / PRIMES[-1]) ** _TRIALS
    return replace(best, certificate=replace(best.certificate, trials=_TRIALS, chance_of_more=chance))


def generic_rank_if_cheap(sized: SizedStructure) -> int | None:
    """The generic rank where it is cheap, else None."""
    bound, attempts = _attempts(sized)
    work = math.prod((bound, _rows(sized, attempts[0]), _columns(sized, attempts[0])))
    if work > _CHEAP_WORK or max(_largest_array(sizes) for sizes in attempts) > _CHEAP_ENTRIES:
        return None
    return generic_rank(sized).rank


def _attempts(sized: SizedStructure) -> tuple[int, list[dict[str, int]]]:
    """The bound, and the sizes to try in turn: with the smallest bonds that leave the bound as it is, then all."""
    sizes = clipped(dict(sized.sizes), keep=_padded(sized))
    bound = min(cut_bound(sizes), sized.d_in, sized.d_out)
    slim = with_smallest_bonds(sizes, bound)
    return bound, [slim] * (slim != sizes) + [sizes] * _TRIALS


def _padded(sized: SizedStructure) -> str:
    return "X" * (sized.padded_in != sized.d_in) + "Y" * (sized.padded_out != sized.d_out)


def _rows(sized: SizedStructure, sizes: Sizes) -> int:
    return min(sized.d_out, math.prod(size for c, size in sizes.items() if "Y" in c))


def _columns(sized: SizedStructure, sizes: Sizes) -> int:
    return min(sized.d_in, math.prod(size for c, size in sizes.items() if "X" in c))


def _by_paths(sized: SizedStructure, sizes: Sizes, bound: int) -> GenericRank:
    dropped = sized.padded_in - sized.d_in + sized.padded_out - sized.d_out
    least = max(0, path_bound(sizes) - dropped)
    if least < bound:
        raise SizeError(
            f"the exact rank of {sized.structure} at d_in {sized.d_in}, d_out {sized.d_out} needs arrays of "
            f"{_largest_array(sizes):,} numbers: at most {MAX_ENTRIES:,} (4096 × 4096) are eliminated; "
            f"the rank is from {least:,} to {bound:,}",
            remedy="choose smaller dimensions, or powers of two, whose rank needs no matrix",
        )
    return GenericRank(bound, bound, BY_PATHS, RankCertificate(None, None, 0, tuple(sizes.items()), 0.0))


# Tensors below are pairs of axes, named by their carrier sets, and an array.
_Axes = tuple[str, ...]


def random_factors(sizes: Sizes, prime: int, seed: int) -> dict[str, tuple[_Axes, Residues]]:
    """Every factor with its axes and uniform random residues."""
    generator = np.random.default_rng(seed)
    factors: dict[str, tuple[_Axes, Residues]] = {}
    for factor in _factors(sizes):
        axes = tuple(c for c in sizes if factor in c)
        factors[factor] = axes, generator.integers(0, prime, size=[sizes[c] for c in axes])
    return factors


def random_matrix(sizes: Sizes, prime: int, seed: int) -> Residues:
    """W modulo p for random factors; rows are the output indices, columns the input indices, in order.

    >>> random_matrix({"XA": 6, "YB": 4, "AB": 2}, PRIMES[0], seed=0).shape
    (4, 6)
    """
    tensors = random_factors(sizes, prime, seed)
    held: dict[str, tuple[_Axes, Residues]] = dict(tensors)
    for left, right in _order(sizes):
        axes = _axes_of(left + right, sizes)
        held[left + right] = axes, _contract(held.pop(left), held.pop(right), axes, sizes, prime)
    ((axes, product),) = held.values()
    row_axes, column_axes = [c for c in sizes if "Y" in c], [c for c in sizes if "X" in c]
    wanted = row_axes + [c for c in column_axes if "Y" not in c]
    product = product.transpose([axes.index(c) for c in wanted if c in axes])
    # An index of X and Y that no factor has repeats the block.
    product = np.broadcast_to(
        np.expand_dims(product, [k for k, c in enumerate(wanted) if c not in axes]), [sizes[c] for c in wanted]
    )
    if set(row_axes) & set(column_axes):
        product = _block_diagonal(product, wanted, row_axes + column_axes)
    return product.reshape(math.prod(sizes[c] for c in row_axes), -1)


def _block_diagonal(product: Residues, axes: list[str], wanted: list[str]) -> Residues:
    """Write the blocks of indices that X and Y share on the diagonal."""
    number = {c: i for i, c in enumerate(axes)}
    size = dict(zip(axes, product.shape, strict=True))
    whole = np.zeros([size[c] for c in wanted], dtype=np.int64)
    diagonal = np.einsum(whole, [number[c] for c in wanted], [number[c] for c in axes])
    diagonal[...] = product
    return whole


def _contract(
    left: tuple[_Axes, Residues], right: tuple[_Axes, Residues], wanted: _Axes, sizes: Sizes, prime: int
) -> Residues:
    """Multiply two tensors and sum over the axes that nobody else has."""
    (left_axes, left_array), (right_axes, right_array) = left, right
    both = [c for c in left_axes if c in right_axes]
    batch, summed = [c for c in both if c in wanted], [c for c in both if c not in wanted]
    rows = [c for c in left_axes if c not in both]
    columns = [c for c in right_axes if c not in both]
    b, r, k, n = (math.prod(sizes[c] for c in group) for group in (batch, rows, summed, columns))
    left_BRK = left_array.transpose([left_axes.index(c) for c in batch + rows + summed]).reshape(b, r, k)
    right_BKN = right_array.transpose([right_axes.index(c) for c in batch + summed + columns]).reshape(b, k, n)
    found = batch + rows + columns
    product = product_mod(left_BRK, right_BKN, prime).reshape([sizes[c] for c in found])
    return product.transpose([found.index(c) for c in wanted])


def _order(sizes: Sizes) -> Iterator[tuple[str, str]]:
    """Groups of factors in the order they are multiplied: always the pair with the smallest product."""
    groups = _factors(sizes)
    while len(groups) > 1:
        left, right = min(combinations(groups, 2), key=lambda pair: (_entries(pair[0] + pair[1], sizes), pair))
        groups = [group for group in groups if group not in (left, right)] + [left + right]
        yield left, right


def _largest_array(sizes: Sizes) -> int:
    """Numbers in the largest array on the way to W: a factor, a product of factors, or W."""
    products = [left + right for left, right in _order(sizes)]
    whole = math.prod(math.prod(size for c, size in sizes.items() if tensor in c) for tensor in "XY")
    return max([whole, *(_entries(group, sizes) for group in [*_factors(sizes), *products])])


def _entries(group: str, sizes: Sizes) -> int:
    return math.prod(sizes[c] for c in _axes_of(group, sizes))


def _axes_of(group: str, sizes: Sizes) -> _Axes:
    """The axes that the product of some factors still has: a tensor outside carries them too."""
    inside = set(group)
    return tuple(c for c in sizes if not inside.isdisjoint(c) and not inside.issuperset(c))


def _factors(sizes: Sizes) -> list[str]:
    return sorted(set("".join(sizes)) - {"X", "Y"})
