"""Structures as carrier sets with exponents or sizes, and as θ vectors."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping
from fractions import Fraction

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import ONE, Extent, parse_rational, parse_size
from einsearch_cli.structures.feature_order import FeatureOrder
from einsearch_cli.structures.normal_form import D, carrier_classes, text_of_carriers
from einsearch_cli.structures.structure import Structure

REST = "rest"
ORDER = "order"
"""The term that gives the order of the features."""
_ORDER = f"{ORDER}:"
THETA_CARRIERS = tuple(text_of_carriers(c) for c in carrier_classes(2))
"""The seven classes that Potapczynski et al. 2024 call α, β, γ, δ, ε, φ and ρ."""

_TERM = re.compile(r"(?P<carriers>[A-Za-z]+)(?P<extent>(?:\^|=).*)?")
_LOOK_ALIKES = dict(zip("АВСЕНКМОРТХУЅІЈΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABCEHKMOPTXYSIJABEZHIKMNOPTYX", strict=True))
"""Cyrillic and Greek capitals, followed by the Latin letters that they look like."""
_BLOCKS = re.compile(r"(?P<count>[0-9]+) blocks?")


def parse_carriers(text: str, *, block_diagonal: bool = False) -> Structure:
    """Read `XA^1/2 XAB=4 YB YAB=4`; input and output indices left bare share the rest.

    With `block_diagonal`, X and Y may share indices, such as `XYA^1/2`. A last term such as
    `order:XB,XA/YA,YB` says which index of input and output counts slowest.

    Raises:
        StructureError: naming the term that cannot be read.

    >>> print(parse_carriers("XA XAB=4 YB YAB=4"))
    XA=1/4*d XAB=4 YB=1/4*d YAB=4
    """
    terms: dict[str, str] = {}
    for token in text.split():
        if token.startswith(_ORDER) and ORDER not in terms:
            terms[ORDER] = token.removeprefix(_ORDER)
            continue
        refuse_foreign(token)
        match = _TERM.fullmatch(token)
        if not match:
            raise StructureError(
                f"{token[:40]!r} in {text[:80]!r} is not a term: terms are carriers^exponent or carriers=size",
                remedy="write terms such as XA^1/2 or XAB=4",
            )
        carriers = in_standard_order(match["carriers"])
        refuse_second(carriers, terms, text)
        terms[carriers] = (match["extent"] or REST).removeprefix("^")
    return structure_of_terms(terms, block_diagonal=block_diagonal, text=text)


def refuse_foreign(term: str) -> None:
    """Raise StructureError for a letter that only looks like a tensor's name, such as a Cyrillic А."""
    foreign = re.search(r"[^\x00-\x7f]", term)
    if foreign is None:
        return
    name = unicodedata.name(foreign[0], "")
    like = _LOOK_ALIKES.get(foreign[0])
    raise StructureError(
        f"{foreign[0]!r} (U+{ord(foreign[0]):04X}{f', {name}' if name else ''}), character {foreign.start() + 1} of the "
        f"term {term[:40]!r}, names no tensor: tensors are X, Y and the factors A, B, … in Latin letters",
        remedy=f"write the Latin letter {like}" if like else "write terms such as XA^1/2 or XAB=4",
    )


def refuse_second(carriers: str, terms: Container[str], text: str) -> None:
    """Raise StructureError for a carrier set that an earlier term has already given."""
    if carriers in terms:
        raise StructureError(
            f"{carriers} occurs twice in {text[:80]!r}: a carrier set has one index",
            remedy=f"merge the two, adding their exponents, into one {carriers}",
        )


def in_standard_order(letters: str) -> str:
    """The letters in the usual order: `XAB` for `BAX`. Repeated letters are left for `Structure.of` to refuse."""
    return text_of_carriers(frozenset(letters)) if len(set(letters)) == len(letters) else letters


def structure_of_terms(terms: Mapping[str, str], *, block_diagonal: bool = False, text: str = "") -> Structure:
    """Build a structure from a mapping of carrier set to exponent text, `=size`, `4 blocks` or `rest`.

    The key `order` maps to an order of features. Messages quote `text`, or the mapping if that is what the user wrote.
    """
    whole = text or "{" + ", ".join(f"{carriers}: {extent}" for carriers, extent in terms.items()) + "}"
    terms = dict(terms)
    order = None if (given := terms.pop(ORDER, None)) is None else FeatureOrder.of_text(given)
    extents = {c: parse_extent(extent, whole) for c, extent in terms.items() if extent != REST}
    filled = share_rest(extents, [c for c, extent in terms.items() if extent == REST], whole)
    return Structure.of(filled, block_diagonal=block_diagonal, order=order, text=whole)


def parse_extent(text: str, where: str) -> Extent:
    """Read an exponent, `=size`, or `4 blocks`."""
    if text.startswith("="):
        return parse_size(text[1:], where)
    if blocks := _BLOCKS.fullmatch(text):
        return parse_size(blocks["count"], where)
    return Extent.power(parse_rational(text, where))


def share_rest(extents: Mapping[str, Extent], bare: Iterable[str], whole: str) -> dict[str, Extent]:
    """Give the bare indices of each side equal shares of what the others leave."""
    filled = dict(extents)
    names = list(bare)
    for carriers in names:
        if "X" not in carriers and "Y" not in carriers:
            raise StructureError(
                f"the bond {carriers} in {whole[:80]!r} has no extent: only input and output indices can take the rest",
                remedy=f"write {carriers}^1/2 or {carriers}=4",
            )
    for tensor in "XY":
        sharing = [carriers for carriers in names if tensor in carriers]
        if sharing:
            share = _share(tensor, extents, len(sharing), whole)
            _check_shared(sharing, share, filled, whole)
            filled.update(dict.fromkeys(sharing, share))
    return filled


def _check_shared(sharing: list[str], share: Extent, filled: Mapping[str, Extent], whole: str) -> None:
    """Raise StructureError if X and Y leave different sizes to an index that both carry."""
    for carriers in sharing:
        if carriers in filled and filled[carriers] != share:
            raise StructureError(
                f"{carriers} in {whole[:80]!r} has no extent, and X leaves it {filled[carriers].size_text}, Y {share.size_text}",
                remedy=f"write {carriers}^1/2 or {carriers}=4",
            )


def _share(tensor: str, extents: Mapping[str, Extent], count: int, whole: str) -> Extent:
    rest = D / math.prod((extent for carriers, extent in extents.items() if tensor in carriers), start=ONE)
    share = rest.root(count)
    if share is None:
        raise StructureError(
            f"{count} indices of {tensor} in {whole[:80]!r} share {rest.size_text}: only one can take the rest of a fixed size",
            remedy="give all but one of them an exponent or a size",
        )
    if share.exponent < 0:
        raise StructureError(
            f"the exponents that {tensor} carries in {whole[:80]!r} sum to more than 1: nothing is left for the rest",
            remedy="write exponents whose sum is 1 at most",
        )
    return share


def parse_theta(text: str) -> Structure:
    """Read the vector (α|β|γ|δ|ε|φ|ρ) of Potapczynski et al. 2024.

    A decimal of two digits stands for the simple fraction that rounds to it: 0.33
    is 1/3.

    Raises:
        StructureError: if there are not seven numbers from 0 to 1, or if α+β+γ
            or δ+ε+φ is not 1.

    >>> print(parse_theta("(0.5|0|0.5|0|0.5|0.5|0)"))
    XA^1/2 XAB^1/2 YB^1/2 YAB^1/2
    """
    inner = text.strip()
    if inner.startswith("(") != inner.endswith(")"):
        raise StructureError(
            f"{text[:80]!r} has one bracket: a θ vector has both or none",
            remedy="write for example (0.5|0|0.5|0|0.5|0.5|0)",
        )
    parts = re.split(r"[|,]", inner.removeprefix("(").removesuffix(")"))
    if len(parts) != len(THETA_CARRIERS):
        raise StructureError(
            f"{text[:80]!r} has {len(parts)} numbers: a θ vector has seven, (α|β|γ|δ|ε|φ|ρ)",
            remedy="write for example (0.5|0|0.5|0|0.5|0.5|0)",
        )
    extents = {c: Extent.power(parse_rational(part, text)) for c, part in zip(THETA_CARRIERS, parts, strict=True)}
    return Structure.of(extents, text=text)


def theta_of(structure: Structure) -> tuple[Fraction, ...] | None:
    """The θ vector; None for more than two factors, indices of both X and Y, and sizes that are not a power of d."""
    if (
        len(structure.factors) > 2
        or structure.is_block_diagonal
        or not all(extent.is_power for _, extent in structure.indices)
    ):
        return None
    return tuple(structure.extent(carriers).exponent for carriers in THETA_CARRIERS)


def theta_text(structure: Structure) -> str | None:
    """`(1/2|0|1/2|0|1/2|1/2|0)`, or None where no θ vector exists."""
    theta = theta_of(structure)
    return None if theta is None else "(" + "|".join(str(exponent) for exponent in theta) + ")"
