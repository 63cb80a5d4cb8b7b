"""`Structure`: a linear map as one einsum, with the sizes left open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import StructureError
from einsearch_cli.showing import Shown
from einsearch_cli.structures.extent import ONE, Extent
from einsearch_cli.structures.factor_names import new_names, renamed
from einsearch_cli.structures.feature_order import FeatureOrder, check_sides
from einsearch_cli.structures.normal_form import (
    FACTOR_LETTERS,
    MAX_FACTORS,
    Extents,
    carrier_classes,
    factors_of,
    reduce,
    text_of_carriers,
)

if TYPE_CHECKING:
    from einsearch_cli.sizing import SizedStructure


@dataclass(frozen=True, slots=True, repr=False)
class Structure(Shown):
    """A structured matrix as a hypergraph: carrier sets with the extent of their index.

    Every index of the einsum is known by the set of tensors that carry it: the input X, the output Y and the factors A,
    B, …. Objects are always in normal form: no factor could be absorbed by another one, and factors are named in the
    cheapest order of meeting the activation. So equal structures are equal objects. Build them with `Structure.of`,
    `parse_structure` or the families.

    An equation also gives the order of the features (`order`). Another order is another map, so it makes another
    object. All other notations leave the order open.

    Source: Potapczynski et al. 2024 (arXiv 2410.02117), "Parameterizing the Space of Einsums", for two
    factors; here for any number of them.

    >>> half = Extent.power(Fraction(1, 2))
    >>> monarch = Structure.of({"XA": half, "XAB": half, "YB": half, "YAB": half})
    >>> print(monarch)
    XA^1/2 XAB^1/2 YB^1/2 YAB^1/2
    >>> monarch.at(1024, 1024).einsum
    '...ba,abd,bcd->...cd'
    """

    indices: tuple[tuple[str, Extent], ...]
    """Carrier set (input or output first, then factors) and extent, in the order of the θ vector."""
    order: FeatureOrder | None = None
    """The order in which an equation has the indices of input and output; None where no order was given."""

    @classmethod
    def of(
        cls,
        extents: Mapping[str, Extent],
        *,
        block_diagonal: bool = False,
        order: FeatureOrder | None = None,
        text: str = "",
    ) -> Structure:
        """Build a structure from carrier sets, checked and brought to normal form.

        Args:
            extents: carrier sets and the extent of their index.
            block_diagonal: whether an index may be carried by both X and Y.
            order: the order of the features, in the same carrier sets; None leaves it open.
            text: how a user wrote the extents, for messages; in standard notation if empty.

        Raises:
            StructureError: for a carrier set that no structure can have,
                input or output indices that do not fill the dimension, or an order of other indices.
        """
        whole = text[:200] or _whole(extents)
        checked = _checked(extents, block_diagonal, whole)
        if order is not None:
            sides = {tensor: [text_of_carriers(c) for c in checked if tensor in c] for tensor in "XY"}
            check_sides(order, sides, repr(whole))
        reduced = reduce(checked)
        factors = factors_of(reduced)
        if not factors:
            raise StructureError(
                f"{whole!r} has no factor that an input or output index reaches: it is a multiple of the identity",
                remedy="name a factor, such as XA YA",
            )
        names = new_names(reduced, _first_met(factors, order))
        return cls.in_normal_form(renamed(reduced, names), _renamed_order(order, reduced, names))

    @classmethod
    def in_normal_form(cls, extents: Extents, order: FeatureOrder | None = None) -> Structure:
        """Wrap extents that are known to be in normal form already."""
        classes = carrier_classes(len(factors_of(extents)), block_diagonal=True)
        return cls(tuple((text_of_carriers(c), extents[c]) for c in classes if c in extents), order)

    @property
    def unordered(self) -> Structure:
        """The structure without its order of features."""
        return self if self.order is None else replace(self, order=None)

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(factors_of(self.extents))

    @property
    def extents(self) -> Extents:
        return {frozenset(carriers): extent for carriers, extent in self.indices}

    def extent(self, carriers: str) -> Extent:
        """The extent of one carrier set, 1 if the structure has no such index."""
        return dict(self.indices).get(carriers, ONE)

    @property
    def is_block_diagonal(self) -> bool:
        """Whether an index is carried by both X and Y, so that blocks of the matrix do not mix."""
        return any({"X", "Y"} <= set(carriers) for carriers, _ in self.indices)

    @property
    def exponents(self) -> dict[frozenset[str], Fraction]:
        """The exponent with which every index grows as d → ∞; fixed sizes do not grow."""
        return {carriers: extent.exponent for carriers, extent in self.extents.items()}

    def transposed(self) -> Structure:
        """The structure of the transposed matrix: input and output change places."""
        swap = str.maketrans("XY", "YX")
        swapped = {carriers.translate(swap): extent for carriers, extent in self.indices}
        order = None
        if self.order is not None:
            outputs, inputs = (tuple(name.translate(swap) for name in side) for side in self.order.sides)
            order = FeatureOrder(inputs, outputs)
        return Structure.of(swapped, block_diagonal=self.is_block_diagonal, order=order)

    def at(self, d_in: int, d_out: int) -> SizedStructure:
        """Choose integer sizes for a d_out × d_in matrix.

        Raises:
            SizeError: if a dimension is not positive or a size is not an integer.
        """
        from einsearch_cli.sizing import choose_sizes

        return choose_sizes(self, d_in, d_out)

    def to_json(self) -> dict[str, str]:
        """A mapping from carrier set to `1/2` (exponent), `=4` or `=1/4*d` (size), and `order`.

        `structure_of_terms` reads it back.
        """
        terms = {carriers: extent.text.removeprefix("^") for carriers, extent in self.indices}
        return terms if self.order is None else {**terms, "order": str(self.order)}

    def __str__(self) -> str:
        terms = [f"{carriers}{extent.text}" for carriers, extent in self.indices]
        return " ".join(terms if self.order is None else [*terms, f"order:{self.order}"])

    def __repr__(self) -> str:
        return f"parse_structure({str(self)!r})"

    def __setstate__(self, state: list[Any]) -> None:
        """Read pickles of versions without `order`, which leave it open."""
        for name, value in zip(("indices", "order"), (*state, None), strict=False):
            object.__setattr__(self, name, value)


def _first_met(factors: list[str], order: FeatureOrder | None) -> list[str]:
    """The factors as an order meets them, so that equal factors get the same names however they were called."""
    text = "" if order is None else "".join((*order.inputs, *order.outputs))
    return sorted(factors, key=lambda factor: (text.find(factor) % (len(text) + 1), factor))


def _renamed_order(order: FeatureOrder | None, reduced: Extents, names: Mapping[str, str]) -> FeatureOrder | None:
    """The order in the names of the normal form; None where only one order exists."""
    if order is None:
        return None

    def index_of(name: str) -> str | None:
        carriers = frozenset(name.rstrip("'")) & frozenset(names)
        return text_of_carriers(frozenset(names[tensor] for tensor in carriers)) if carriers in reduced else None

    found = order.joined(index_of)
    return None if found.is_only_one else found


def _whole(extents: Mapping[str, Extent]) -> str:
    return " ".join(f"{carriers}{extent.text}" for carriers, extent in extents.items())[:200]


def _checked(extents: Mapping[str, Extent], block_diagonal: bool, whole: str) -> Extents:
    checked: Extents = {}
    for text, extent in extents.items():
        carriers = _checked_carriers(text, whole, block_diagonal)
        _check_extent(text, extent, whole)
        checked[carriers] = checked.get(carriers, ONE) * extent
    if len(factors := factors_of(checked)) > MAX_FACTORS:
        raise StructureError(
            f"{whole!r} has {len(factors)} factors: at most {MAX_FACTORS} can be brought to normal form",
            remedy="merge factors into one",
        )
    _check_side("X", "input", checked, whole)
    _check_side("Y", "output", checked, whole)
    return checked


def _checked_carriers(text: str, whole: str, block_diagonal: bool) -> frozenset[str]:
    carriers = frozenset(text)
    unknown = sorted(carriers - set(FACTOR_LETTERS) - {"X", "Y"})
    if unknown or not text:
        raise StructureError(
            f"{text[:40]!r} in {whole!r} is not a carrier set: it must be made of X, Y and factor letters A, B, …",
            remedy="write carrier sets such as XA, XAB, YB or AB",
        )
    if len(carriers) != len(text):
        raise StructureError(
            f"{text!r} in {whole!r} names a tensor twice: a tensor carries an index once",
            remedy=f"write {text_of_carriers(carriers)}",
        )
    if {"X", "Y"} <= carriers and not block_diagonal:
        raise StructureError(
            f"{text!r} in {whole!r} is carried by both X and Y: that makes the matrix block-diagonal, outside this space",
            remedy=f"use {text.replace('Y', '')} and {text.replace('X', '')} instead, or give --allow-block-diagonal "
            "(block_diagonal=True) where it is taken",
        )
    if len(carriers) == 1:
        raise StructureError(
            f"{text!r} in {whole!r} is carried by one tensor: an index must tie two tensors or more",
            remedy="name a second tensor, such as XA or AB",
        )
    return carriers


def _check_extent(text: str, extent: Extent, whole: str) -> None:
    if not 0 <= extent.exponent <= 1:
        raise StructureError(
            f"{text} has exponent {extent.exponent} in {whole!r}: exponents must be from 0 to 1",
            remedy=f"write a fraction such as {text}^1/2, or {text}=4 for a fixed size of 4",
        )
    if extent.is_fixed and extent.coefficient.denominator != 1:
        raise StructureError(
            f"{text} has the fixed size {extent.coefficient} in {whole!r}: sizes must be whole numbers",
            remedy=f"write a whole number, such as {text}={max(1, round(extent.coefficient))}",
        )


def _check_side(tensor: str, name: str, extents: Extents, whole: str) -> None:
    total = math.prod((extent for carriers, extent in extents.items() if tensor in carriers), start=ONE)
    if total.exponent != 1:
        raise StructureError(
            f"the {name} exponents of {whole!r} sum to {total.exponent}: they must sum to 1",
            remedy=f"change the exponents of the indices that {tensor} carries, or leave one bare to let it take the rest",
        )
    if total.coefficient != 1:
        raise StructureError(
            f"the {name} sizes of {whole!r} multiply to {total.size_text}: they must multiply to d",
            remedy=f"leave one index that {tensor} carries bare to let it take the rest",
        )
