"""`SizedStructure`: a structure with an integer size for every index."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from einsearch_cli.errors import SizeError, StructureError
from einsearch_cli.structures.families import standard_order
from einsearch_cli.structures.feature_order import FeatureOrder, check_sides
from einsearch_cli.structures.structure import Structure


@dataclass(frozen=True, slots=True)
class SizedStructure:
    """A structure with an integer size for every index.

    The sizes of the input indices multiply to `padded_in` ≥ d_in, those of the
    output indices to `padded_out` ≥ d_out; padding happens only where the
    dimension has no fitting divisors, such as a prime.

    >>> from einsearch_cli.structures import parse_structure
    >>> sized = parse_structure("monarch").at(768, 768)
    >>> sized.einsum, sized.sizes
    ('...ba,abd,bcd->...cd', (('XA', 24), ('XAB', 32), ('YB', 32), ('YAB', 24)))
    """

    structure: Structure
    d_in: int
    d_out: int
    padded_in: int
    padded_out: int
    sizes: tuple[tuple[str, int], ...]
    """Carrier sets with their sizes, in the order of `structure.indices`."""
    order: FeatureOrder | None = None
    """The order in which features are read and written, without indices of size 1; None leaves it to the layer."""

    def __setstate__(self, state: list[Any]) -> None:
        """Read pickles of versions without `order`, which leave it open."""
        for name, value in zip(self.__slots__, (*state, None), strict=False):
            object.__setattr__(self, name, value)

    def ordered(self, order: FeatureOrder | None) -> SizedStructure:
        """A copy with features in this order."""
        if order is None:
            return self if self.order is None else replace(self, order=None)
        size_of = dict(self.sizes)

        def index_of(name: str) -> str | None:
            carriers = name.rstrip("'")
            return None if size_of.get(carriers) == 1 else carriers

        found = order.joined(index_of)
        check_sides(found, {tensor: self._live(tensor) for tensor in "XY"}, self._text)
        factors = tuple(tuple(axis for axis in axes if size_of.get(axis) != 1) for axes in order.factors)
        wanted = [sorted(self._live(factor)) for factor in self.factors]
        if factors and [sorted(axes) for axes in factors] != wanted:
            raise StructureError(
                f"order {str(order)[:80]!r} of {self._text}: the axes of its factors are {wanted}",
                remedy="leave the axes of the factors out, which leaves them to the layer",
            )
        return replace(self, order=replace(found, factors=factors))

    @property
    def _text(self) -> str:
        return f"{self.structure} at {self.d_in} × {self.d_out}"

    def _live(self, tensor: str) -> list[str]:
        return [carriers for carriers in self.carriers_of(tensor) if self.size(carriers) > 1]

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
        """The equation: input first, then the factors in order, output last; `...` is the batch.

        Features are in `order`, or in the standard order where that is left open.
        """
        letters = self.letters
        tensors = (self.features("X"), *map(self.carriers_of, self.factors), self.features("Y"))
        x, *factors, y = ("".join(letters[c] for c in axes) for axes in tensors)
        return f"...{x},{','.join(factors)}->...{y}"

    def features(self, tensor: str) -> tuple[str, ...]:
        """All indices of X or Y, the slowest first: in `order`, or in the standard order where that is left open.

        Indices of size 1, which an order leaves out, stand in front.
        """
        order = standard_order(self.structure) if self.order is None or self.order.is_split else self.order
        own, side = self.carriers_of(tensor), order.inputs if tensor == "X" else order.outputs
        return (*(c for c in own if c not in side), *(c for c in side if c in own))

    @property
    def padding(self) -> str | None:
        """A sentence that says what was padded and why, or None."""
        both = f"{self.d_in} and {self.d_out} have no fitting divisors in common"
        sides = [("d_in", self.d_in, self.padded_in), ("d_out", self.d_out, self.padded_out)]
        if sides[0][1:] == sides[1][1:]:
            sides = [("d_in and d_out", self.d_in, self.padded_in)]
        notes = [
            f"{name} {d} {'are' if ' ' in name else 'is'} padded to {padded}, as "
            + (both if self.structure.is_block_diagonal and self.d_in != self.d_out else f"{d} has no fitting divisors")
            for name, d, padded in sides
            if padded != d
        ]
        return "; ".join(notes) or None
