"""Integer sizes for given dimensions: exact factorizations, never a lost input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import chain, count

from einsearch_cli.errors import SizeError
from einsearch_cli.structures.structure import Structure

MAX_DIMENSION = 2**48
_MAX_RATIO = 2.0
"""A size 'fits' if it is within this factor of d**exponent; otherwise the dimension is padded."""
_TRIAL_DIVISION_LIMIT = 2**32
"""Above this sympy factorizes; below, trial division avoids its 0.5 s of import."""


@dataclass(frozen=True, slots=True)
class SizedStructure:
    """A structure with an integer size for every index.

    The sizes of the input indices multiply to `padded_in` ≥ d_in, those of the
    output indices to `padded_out` ≥ d_out; padding happens only where the
    dimension has no fitting divisors, such as a prime.

    >>> from einsearch_cli.structures import parse_structure
    >>> sized = parse_structure("monarch").at(768, 768)
    >>> sized.einsum, sized.sizes
    ('...ab,abd,bcd->...cd', (('XA', 24), ('XAB', 32), ('YB', 24), ('YAB', 32)))
    """

    structure: Structure
    d_in: int
    d_out: int
    padded_in: int
    padded_out: int
    sizes: tuple[tuple[str, int], ...]
    """Carrier set and size, in the order of `structure.indices`."""

    @property
    def factors(self) -> tuple[str, ...]:
        return self.structure.factors

    def size(self, carriers: str) -> int:
        """The size of one index, 1 if the structure has no such index."""
        return dict(self.sizes).get(carriers, 1)

    def carriers_of(self, tensor: str) -> tuple[str, ...]:
        """The indices that a tensor (X, Y or a factor) carries, in the order of the θ vector."""
        return tuple(carriers for carriers, _ in self.sizes if tensor in carriers)

    @property
    def factor_params(self) -> dict[str, int]:
        """Parameters of every factor."""
        return {f: math.prod(self.size(c) for c in self.carriers_of(f)) for f in self.factors}

    @property
    def params(self) -> int:
        """Parameters of all factors; a bias is not counted."""
        return sum(self.factor_params.values())

    @property
    def letters(self) -> dict[str, str]:
        """The letter of every index in `einsum`."""
        alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        if len(self.sizes) > len(alphabet):
            raise SizeError(
                f"the structure has {len(self.sizes)} indices: an einsum equation has letters for {len(alphabet)}",
                remedy="merge factors or indices",
            )
        return {carriers: letter for (carriers, _), letter in zip(self.sizes, alphabet, strict=False)}

    @property
    def einsum(self) -> str:
        """The equation: input first, then the factors in order, output last; `...` is the batch."""
        letters = self.letters
        operands = ["".join(letters[c] for c in self.carriers_of(t)) for t in ("X", *self.factors, "Y")]
        return f"...{operands[0]},{','.join(operands[1:-1])}->...{operands[-1]}"

    @property
    def padding(self) -> str | None:
        """What was padded and why, or None."""
        notes = [
            f"{name} {d} is padded to {padded}, as {d} has no fitting divisors"
            for name, d, padded in (("d_in", self.d_in, self.padded_in), ("d_out", self.d_out, self.padded_out))
            if padded != d
        ]
        return "; ".join(notes) or None


def choose_sizes(structure: Structure, d_in: int, d_out: int) -> SizedStructure:
    """Integer sizes nearest in log distance to the extents, with products of exactly d.

    Fixed sizes stay as they are. Where no factorization of d has every size
    within a factor of two of its extent (a prime, or 770 in 4 blocks), the
    dimension is padded to the next one that has. Bonds are rounded.
    Rounding d**θ to whole numbers, the obvious alternative, loses up to 8.9%
    of the inputs at d = 768.

    Raises:
        SizeError: if a dimension is below 1 or a fixed size does not fit into it.
    """
    for name, d in (("d_in", d_in), ("d_out", d_out)):
        if not 1 <= d <= MAX_DIMENSION:
            raise SizeError(f"{name} = {d}: dimensions must be from 1 to 2^48", remedy=f"choose {name} in that range")
    if structure.is_block_diagonal:
        raise SizeError(
            f"{structure} has an index that X and Y share: sizes of block-diagonal structures cannot be chosen yet",
            remedy="use a structure without indices carried by both X and Y",
        )
    sizes: dict[str, int] = {}
    padded: dict[str, int] = {}
    for tensor, d in (("X", d_in), ("Y", d_out)):
        carriers = [c for c, _ in structure.indices if tensor in c]
        padded[tensor], chosen = _fit_side(structure, carriers, d)
        sizes.update(zip(carriers, chosen, strict=True))
    for bond, extent in structure.indices:
        if "X" not in bond and "Y" not in bond:
            sizes[bond] = max(1, round(extent.at(min(d_in, d_out))))
    ordered = tuple((carriers, sizes[carriers]) for carriers, _ in structure.indices)
    return SizedStructure(structure, d_in, d_out, padded["X"], padded["Y"], ordered)


def _fit_side(structure: Structure, carriers: list[str], d: int) -> tuple[int, tuple[int, ...]]:
    extents = [structure.extent(c) for c in carriers]
    fixed = math.prod(int(extent.coefficient) for extent in extents if extent.is_fixed)
    if fixed > d:
        names = ", ".join(f"{c}{structure.extent(c).text}" for c in carriers if structure.extent(c).is_fixed)
        raise SizeError(
            f"the fixed sizes {names} multiply to {fixed}: they do not fit into a dimension of {d}",
            remedy=f"choose a dimension of at least {fixed}, or smaller sizes",
        )
    targets = tuple(extent.at(d) for extent in extents if not extent.is_fixed)
    free = next(found for n in count(-(-d // fixed)) if (found := nearest_factorization(n, targets)))
    chosen = iter(free)
    sizes = tuple(int(extent.coefficient) if extent.is_fixed else next(chosen) for extent in extents)
    return math.prod(sizes), sizes


def nearest_factorization(n: int, targets: tuple[float, ...]) -> tuple[int, ...] | None:
    """The ordered factorization of n nearest to the targets in squared log distance.

    None if no factorization has every size within a factor of two of its
    target; a single target takes n as it is.

    >>> nearest_factorization(768, (27.7, 27.7)), nearest_factorization(257, (16.0, 16.0))
    ((24, 32), None)
    """
    if len(targets) <= 1:
        return (n,) if targets or n == 1 else None
    all_divisors = divisors(n)

    @cache
    def best(position: int, rest: int) -> tuple[float, tuple[int, ...]]:
        target = targets[position]
        if position == len(targets) - 1:
            return _log_distance(rest, target), (rest,)
        found: tuple[float, tuple[int, ...]] = (math.inf, ())
        for divisor in all_divisors:
            if rest % divisor == 0 and (near := _log_distance(divisor, target)) < found[0]:
                far, others = best(position + 1, rest // divisor)
                if near + far < found[0] - 1e-12:
                    found = (near + far, (divisor, *others))
        return found

    distance, sizes = best(0, n)
    return sizes if math.isfinite(distance) else None


def _log_distance(size: int, target: float) -> float:
    """Squared log distance, infinite where the size does not fit the target."""
    distance = abs(math.log(size / target))
    return distance**2 if distance <= math.log(_MAX_RATIO) + 1e-12 else math.inf


def divisors(n: int) -> list[int]:
    """All divisors in increasing order."""
    found = [1]
    for prime, power in _prime_powers(n):
        found = [d * prime**k for d in found for k in range(power + 1)]
    return sorted(found)


def _prime_powers(n: int) -> list[tuple[int, int]]:
    if n > _TRIAL_DIVISION_LIMIT:
        from sympy import factorint

        return [(int(p), int(k)) for p, k in factorint(n).items()]
    powers = []
    for prime in chain((2,), count(3, 2)):
        if prime * prime > n:
            break
        power = 0
        while n % prime == 0:
            n, power = n // prime, power + 1
        if power:
            powers.append((prime, power))
    return [*powers, (n, 1)] if n > 1 else powers
