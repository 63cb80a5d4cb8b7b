"""The generic rank of a structure at its sizes, by exact arithmetic with random factors modulo a prime.

The rank that W has for one choice of factors is a lower bound on the rank that almost all choices have, and a matrix of
integers has at least the rank that it has modulo a prime. So the rank found here is never too large. It is too small
with a probability of at most N·r/p: the degree of an r × r minor in the entries of the N factors, divided by p, by the
Schwartz-Zippel lemma.

Matrices that are too large to be eliminated in two minutes are decomposed in
float64 instead, which certifies nothing: the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from einsearch_cli.errors import SizeError
from einsearch_cli.sizing.cut_bounds import Sizes, clipped, cut_bound, path_bound, with_smallest_bonds
from einsearch_cli.sizing.modular import PRIMES, rank_mod
from einsearch_cli.sizing.random_matrix import Matrix, largest_array, random_matrix
from einsearch_cli.sizing.sized import SizedStructure

QUICK_ENTRIES = 2**24
"""The most entries of a matrix that is formed at once, 4096 × 4096 (11 s); beyond, disjoint paths are tried first."""
MAX_ENTRIES = 2**26
"""The largest matrix that is eliminated: 8192 × 8192 takes 80 s on one core and 2 GB."""
MAX_NUMERIC_ENTRIES = 2**27
"""The largest matrix whose singular values are taken: 11,585 × 11,585 takes less memory but no less time."""
_SECONDS_PER_STEP = 1.5e-10
"""Seconds for each of n³ steps of eliminating n × n numbers: 11 s for 4096, 30 s for 6000, 79 s for 8192."""
_SECONDS_PER_SVD_STEP = 5e-10
"""Seconds for each of n³ steps of the singular values of n × n numbers: 3.6 s for 2048, 13.9 s for 3072."""
_SVD_BYTES = 24
"""Bytes for each entry: the matrix, the product that it is a view of, and the copy that LAPACK works on."""
_TRIALS = 2
"""How often a rank below the bound is computed, each time with another prime and other factors."""
_CHEAP_WORK = 256**3
_CHEAP_ENTRIES = 2**17
"""The most entries of a matrix whose rank is cheap: 256 × 256, 25 ms."""

EXACT = "exact mod p"
BY_PATHS = "exact by disjoint paths"
NUMERIC = "numeric, by singular values"


@dataclass(frozen=True, slots=True)
class RankCertificate:
    """How to repeat the computation of a rank, and how far it can be trusted."""

    prime: int | None
    """The number of elements of the field over which the rank was computed; None if no field was used."""
    seed: int | None
    """The seed of the factors, which `random_factors` makes."""
    trials: int
    """The number of primes and seeds tried; the largest rank counts."""
    sizes: tuple[tuple[str, int], ...]
    """The sizes of the factors: those of the structure, or smaller ones that give the same rank."""
    chance_of_more: float | None
    """The highest probability that the generic rank is larger; 0 where the bound is reached, None if not known."""
    singular_values: tuple[float, float] | None = None
    """Numeric rank only: the smallest singular value that counts and the largest that does not, relative to the first.
    """


@dataclass(frozen=True, slots=True)
class GenericRank:
    """The rank that W has for almost all factors."""

    rank: int
    bound: int
    """The smallest cut, at most d_in and d_out."""
    method: str
    certificate: RankCertificate

    def to_json(self) -> dict[str, object]:
        return {
            "rank": self.rank,
            "rank_method": self.method,
            "rank_certificate": asdict(self.certificate) | {"sizes": dict(self.certificate.sizes)},
        }


def generic_rank(sized: SizedStructure, seed: int = 0, on_slow: Callable[[str], None] = lambda _: None) -> GenericRank:
    """The rank at these sizes for almost all factors; exact if that takes at most two minutes.

    Where d is padded it is the rank of the first d_in columns and d_out rows,
    in the order of the equation.

    Args:
        sized: the structure with its sizes.
        seed: seed of the random factors.
        on_slow: called with a sentence before anything that takes more than a few seconds.

    Raises:
        SizeError: for matrices too large for memory whose rank the paths do not settle.

    >>> from einsearch_cli.structures import parse_structure
    >>> found = generic_rank(parse_structure("XA^1/3 XB^1/3 XAB^1/3 YA^1/2 YB^1/2").at(8, 9))
    >>> found.rank, found.bound, found.method, found.certificate.prime
    (7, 8, 'exact mod p', 2147483647)
    """
    if seed < 0:
        raise SizeError(f"seed = {seed}: seeds must not be negative", remedy="choose a seed from 0 on")
    bound, attempts = _attempts(sized)
    if largest_array(attempts[-1]) > QUICK_ENTRIES and (proved := _by_paths(sized, attempts[-1], bound)):
        return proved
    best: GenericRank | None = None
    for trial, (sizes, prime) in enumerate(zip(attempts, PRIMES, strict=False)):
        if largest_array(sizes) > MAX_ENTRIES:
            continue
        rows, columns = _rows(sized, sizes), _columns(sized, sizes)
        if largest_array(sizes) > QUICK_ENTRIES:
            seconds = rows * columns * min(rows, columns) * _SECONDS_PER_STEP
            on_slow(f"eliminating a {rows:,} × {columns:,} matrix modulo {prime}: about {seconds:.0f} s on one core")
        rank = rank_mod(random_matrix(sizes, prime, seed + trial)[:rows, :columns], prime)
        if best is None or rank > best.rank:
            best = GenericRank(rank, bound, EXACT, RankCertificate(prime, seed + trial, 1, tuple(sizes.items()), 0.0))
        if rank == bound:
            return best
    if best is None or largest_array(attempts[-1]) > MAX_ENTRIES:
        return _numeric(sized, attempts[:-1], bound, seed, on_slow)
    degree = len(sized.factors) * (best.rank + 1)
    chance = (degree / PRIMES[-1]) ** _TRIALS
    return replace(best, certificate=replace(best.certificate, trials=_TRIALS, chance_of_more=chance))


def generic_rank_if_cheap(sized: SizedStructure) -> int | None:
    """The generic rank where it is cheap, else None."""
    bound, attempts = _attempts(sized)
    work = math.prod((bound, _rows(sized, attempts[0]), _columns(sized, attempts[0])))
    if work > _CHEAP_WORK or max(largest_array(sizes) for sizes in attempts) > _CHEAP_ENTRIES:
        return None
    return generic_rank(sized).rank


def certified_rank(sized: SizedStructure) -> tuple[int, int]:
    """A rank that almost all factors have at least, and the bound on it, without forming a large matrix.

    The first number is the rank that disjoint paths prove, or the exact rank where that is cheap. Paths prove most
    where all sizes are powers of one number, so sizes rounded down to such powers are tried too: factors that are 0
    elsewhere have no larger rank.

    >>> from einsearch_cli.structures import parse_structure
    >>> certified_rank(parse_structure("btt:r=4").at(4096, 11008))
    (4096, 4096)
    """
    bound, attempts = _attempts(sized)
    padding = sized.padded_in - sized.d_in + sized.padded_out - sized.d_out
    smaller = [{c: base ** int(math.log(size, base) + 1e-9) for c, size in sized.sizes} for base in (2, 3, 5)]
    proved = max(path_bound(sizes) for sizes in (*attempts, *smaller)) - padding
    proved = max(0, min(bound, proved))
    if proved < bound and (exact := generic_rank_if_cheap(sized)) is not None:
        proved = exact
    return proved, bound


def _attempts(sized: SizedStructure) -> tuple[int, list[dict[str, int]]]:
    """The bound, and the sizes to try in turn: first with the smallest bonds that keep the bound, then all of them."""
    padded = "X" * (sized.padded_in != sized.d_in) + "Y" * (sized.padded_out != sized.d_out)
    sizes = clipped(dict(sized.sizes), keep=padded)
    bound = min(cut_bound(sizes), sized.d_in, sized.d_out)
    slim = with_smallest_bonds(sizes, bound)
    return bound, [slim] * (slim != sizes) + [sizes] * _TRIALS


def _rows(sized: SizedStructure, sizes: Sizes) -> int:
    return min(sized.d_out, math.prod(size for c, size in sizes.items() if "Y" in c))


def _columns(sized: SizedStructure, sizes: Sizes) -> int:
    return min(sized.d_in, math.prod(size for c, size in sizes.items() if "X" in c))


def _by_paths(sized: SizedStructure, sizes: Sizes, bound: int) -> GenericRank | None:
    """The bound, if disjoint paths prove it."""
    if _least(sized, sizes) < bound:
        return None
    return GenericRank(bound, bound, BY_PATHS, RankCertificate(None, None, 0, tuple(sizes.items()), 0.0))


def _least(sized: SizedStructure, sizes: Sizes) -> int:
    """The rank that disjoint paths prove."""
    return max(0, path_bound(sizes) - (sized.padded_in - sized.d_in + sized.padded_out - sized.d_out))


def _numeric(
    sized: SizedStructure, attempts: list[dict[str, int]], bound: int, seed: int, on_slow: Callable[[str], None]
) -> GenericRank:
    """The rank in float64, with the smallest bonds that keep the bound if those reach it."""
    if largest_array(attempts[-1]) > MAX_NUMERIC_ENTRIES:
        raise SizeError(
            f"the rank of {sized.structure} at d_in {sized.d_in}, d_out {sized.d_out} needs arrays of "
            f"{largest_array(attempts[-1]):,} numbers: at most {MAX_ENTRIES:,} (8192 × 8192) are eliminated exactly and "
            f"{MAX_NUMERIC_ENTRIES:,} (11,585 × 11,585) decomposed in float64; "
            f"the rank is from {_least(sized, attempts[-1]):,} to {bound:,}",
            remedy="choose smaller dimensions, or powers of two, whose rank needs no matrix",
        )
    found: GenericRank | None = None
    for sizes in attempts:
        rows, columns = _rows(sized, sizes), _columns(sized, sizes)
        minutes = rows * columns * min(rows, columns) * _SECONDS_PER_SVD_STEP / 60
        on_slow(
            f"too large to be exact: taking the singular values of a {rows:,} × {columns:,} matrix, about "
            f"{minutes:.0f} min on one core and {rows * columns * _SVD_BYTES / 1e9:.1f} GB; Ctrl-C stops it"
        )
        rank, gap = numeric_rank(random_matrix(sizes, None, seed)[:rows, :columns])
        certificate = RankCertificate(None, seed, 1, tuple(sizes.items()), None, gap)
        if found is None or rank > found.rank:
            found = GenericRank(min(rank, bound), bound, NUMERIC, certificate)
        if rank >= bound:
            break
    assert found is not None
    return found


def numeric_rank(matrix: Matrix) -> tuple[int, tuple[float, float]]:
    """The number of singular values above the rounding error, and the two around that threshold, relative to the first.

    >>> numeric_rank(np.diag([4.0, 2.0, 0.0]))
    (2, (0.5, 0.0))
    """
    values = np.linalg.svd(matrix, compute_uv=False)
    relative = values / values[0] if values[0] else values
    rank = int((relative > max(matrix.shape) * np.finfo(np.float64).eps).sum())
    kept, dropped = relative[rank - 1] if rank else 0.0, relative[rank] if rank < len(relative) else 0.0
    return rank, (float(kept), float(dropped))
