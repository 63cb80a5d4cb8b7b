"""Sizes of the input and output indices, nearest to their extents, whose products are the dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, product

from einsearch_cli.errors import SizeError
from einsearch_cli.sizing.factorization import Factorization, distance, divisors, nearest_factorizations
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.structure import Structure

MAX_TIES = 64
"""The most choices of equally near sizes that are listed."""
_MAX_SHARED = 64
"""How many whole numbers near its extent are tried where no shared size divides both dimensions."""
_EQUAL = 1e-12

Sides = dict[str, int]


def nearest_sides(structure: Structure, d_in: int, d_out: int) -> list[Sides]:
    """One choice of sizes for all indices of X and Y, or several if they are equally near.

    Raises:
        SizeError: if fixed sizes do not fit into a dimension, or X and Y share every index that grows and d_in ≠ d_out.

    >>> from einsearch_cli.structures import parse_structure
    >>> nearest_sides(parse_structure("XYA^1/2 XA^1/2 YA^1/2", block_diagonal=True), 64, 256)
    [{'XYA': 8, 'XA': 8, 'YA': 32}]
    """
    if structure.is_block_diagonal:
        return _with_shared(structure, d_in, d_out)
    inputs = _Group.of(structure, "X", d_in).choices(d_in, structure)
    outputs = _Group.of(structure, "Y", d_out).choices(d_out, structure)
    return _joined(inputs, outputs)


@dataclass(frozen=True, slots=True)
class _Group:
    """Indices whose sizes are chosen together."""

    carriers: tuple[str, ...]
    sizes: tuple[int | None, ...]
    """The fixed sizes."""
    targets: tuple[float, ...]
    """The sizes that the other indices should have."""

    @classmethod
    def of(cls, structure: Structure, tensors: str, base: int) -> _Group:
        """The indices that exactly these of X and Y carry; their extents are powers of `base`."""
        found = [(c, extent) for c, extent in structure.indices if set(c) & {"X", "Y"} == set(tensors)]
        sizes = tuple(int(extent.coefficient) if extent.is_fixed else None for _, extent in found)
        targets = tuple(extent.at(base) for _, extent in found if not extent.is_fixed)
        for carriers, extent in found if len(targets) > 1 else ():
            _refuse_below_one(carriers, extent, base)
        return cls(tuple(c for c, _ in found), sizes, targets)

    @property
    def fixed(self) -> int:
        return math.prod(size for size in self.sizes if size is not None)

    def complete(self, free: Factorization) -> Sides:
        chosen = iter(free)
        return {c: next(chosen) if size is None else size for c, size in zip(self.carriers, self.sizes, strict=True)}

    def choices(self, d: int, structure: Structure) -> list[Sides]:
        """The nearest factorizations of d, or of the next number that has one."""
        _refuse_too_small(d, self.fixed, structure, self.carriers)
        least = -(-d // self.fixed)
        return [self.complete(free) for free in next(filter(None, self._from(least, self.targets)))]

    def choices_beside(self, shared: int, d: int) -> tuple[int, float, list[Sides]]:
        """The padded dimension, the distance and the choices when shared indices take their part of d.

        The targets share what is left in their proportions: shared indices have the base
        min(d_in, d_out), so with them the sizes of the larger side do not multiply to its dimension.
        """
        least = -(-d // (shared * self.fixed))
        scale = (least / math.prod(self.targets)) ** (1 / len(self.targets))
        targets = tuple(max(1.0, target * scale) for target in self.targets)
        ties = next(filter(None, self._from(least, targets)))
        n = math.prod(ties[0])
        return n * shared * self.fixed, distance(ties[0], targets), [self.complete(free) for free in ties]

    @staticmethod
    def _from(least: int, targets: tuple[float, ...]) -> Iterator[tuple[Factorization, ...]]:
        return (nearest_factorizations(n, targets) for n in count(least))


def _with_shared(structure: Structure, d_in: int, d_out: int) -> list[Sides]:
    """Sizes of all indices where X and Y share some; the shared sizes divide both dimensions.

    The extents of shared indices are to the base min(d_in, d_out). Among the sizes tried, the least padding wins, then
    the smallest distance to the extents.
    """
    shared, inputs, outputs = (
        _Group.of(structure, "XY", min(d_in, d_out)),
        _Group.of(structure, "X", d_in),
        _Group.of(structure, "Y", d_out),
    )
    for group, d in ((inputs, d_in), (outputs, d_out)):
        _refuse_too_small(d, group.fixed * shared.fixed, structure, shared.carriers + group.carriers)
    if not inputs.targets:
        return _all_shared(structure, shared, inputs, outputs, (d_in, d_out))
    best, found = (math.inf, math.inf), []  # type: tuple[float, float], list[Sides]
    for numbers in _shared_numbers(shared, d_in // inputs.fixed, d_out // outputs.fixed):
        for size, free in ((n, free) for n in numbers for free in nearest_factorizations(n, shared.targets)):
            padded_in, near_in, some_inputs = inputs.choices_beside(size * shared.fixed, d_in)
            padded_out, near_out, some_outputs = outputs.choices_beside(size * shared.fixed, d_out)
            padding = padded_in / d_in * (padded_out / d_out)
            this = (padding, distance(free, shared.targets) + near_in + near_out)
            if this[0] > best[0] or (this[0] == best[0] and this[1] > best[1] + _EQUAL):
                continue
            if this[0] < best[0] or this[1] < best[1] - _EQUAL:
                best, found = this, []
            found += _joined([shared.complete(free)], _joined(some_inputs, some_outputs))
        if best[0] == 1:
            break
    return found[:MAX_TIES]


def _shared_numbers(shared: _Group, d_in: int, d_out: int) -> Iterator[list[int]]:
    """Candidates for the product of the free shared sizes: divisors of both dimensions, then numbers near the extents."""
    target, slack = math.prod(shared.targets), 2.0 ** len(shared.targets)
    yield [
        n
        for n in divisors(math.gcd(d_in // shared.fixed, d_out // shared.fixed))
        if target / slack <= n <= target * slack
    ]
    around = range(max(1, int(target) - _MAX_SHARED), int(target) + _MAX_SHARED)
    near = sorted(around, key=lambda n: abs(math.log(n / target)))[:_MAX_SHARED]
    yield [*(n for n in near if target / slack <= n <= target * slack), math.prod(map(round, shared.targets))]


def _all_shared(
    structure: Structure, shared: _Group, inputs: _Group, outputs: _Group, dimensions: tuple[int, int]
) -> list[Sides]:
    """The sizes where every index that grows is shared, which needs equal dimensions."""
    if len(set(dimensions)) > 1:
        raise SizeError(
            f"{structure} at d_in {dimensions[0]}, d_out {dimensions[1]}: X and Y share every index that grows, "
            "so the dimensions must be equal",
            remedy="choose d_out = d_in, or give X and Y indices of their own",
        )
    least = -(-dimensions[0] // (shared.fixed * inputs.fixed))
    ties = next(found for n in count(least) if (found := nearest_factorizations(n, shared.targets)))
    rest = inputs.complete(()) | outputs.complete(())
    return [shared.complete(free) | rest for free in ties]


def _joined(first: list[Sides], second: list[Sides]) -> list[Sides]:
    return [a | b for a, b in islice(product(first, second), MAX_TIES)]


def _refuse_below_one(carriers: str, extent: Extent, d: int) -> None:
    if 2 * extent.at(d) < 1:
        raise SizeError(
            f"{carriers}{extent.text} is {extent.at(d):.3g} at d = {d}: sizes must be at least 1",
            remedy="choose a larger dimension, or extents with larger coefficients",
        )


def _refuse_too_small(d: int, fixed: int, structure: Structure, carriers: tuple[str, ...]) -> None:
    if fixed > d:
        names = ", ".join(f"{c}{structure.extent(c).text}" for c in carriers if structure.extent(c).is_fixed)
        raise SizeError(
            f"the fixed sizes {names} multiply to {fixed}: they do not fit into a dimension of {d}",
            remedy=f"choose a dimension of at least {fixed}, or smaller sizes",
        )
