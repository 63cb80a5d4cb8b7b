"""Structures whose exponents are letters: `XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.carrier_notation import in_standard_order, refuse_second
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.linear_expression import UNIT, ZERO, Linear, parse_linear
from einsearch_cli.structures.polytope import Polytope
from einsearch_cli.structures.structure import Structure

MAX_SYMBOLS = 12
_MAX_LENGTH = 2000
_SCIENTIFIC = re.compile(r"\^[-+]?[0-9.]+[eE][-+]?[0-9]+(?=\s|$)", re.ASCII)
_TERM = re.compile(r"(?P<carriers>[A-Z]+)(?:\^(?P<exponent>.+))?", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class FreeStructure:
    """A structure whose exponents are linear in some letters, as a mapping of carrier set to exponent."""

    indices: tuple[tuple[str, Linear], ...]
    block_diagonal: bool = False
    """Whether an index may be carried by both X and Y."""

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(sorted({tensor for carriers, _ in self.indices for tensor in carriers} - {"X", "Y"}))

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(sorted({symbol for _, exponent in self.indices for symbol in exponent.symbols}))

    @cached_property
    def domain(self) -> Polytope:
        """The values of the letters for which all exponents are from 0 to 1."""
        exponents = [exponent for _, exponent in self.indices]
        return Polytope.of([*exponents, *(UNIT - exponent for exponent in exponents)])

    def at(self, values: Mapping[str, Fraction]) -> Structure:
        """The structure with numbers for the letters, in normal form."""
        extents = {carriers: Extent.power(exponent.at(values)) for carriers, exponent in self.indices}
        return Structure.of(extents, block_diagonal=self.block_diagonal)

    def to_json(self) -> dict[str, str]:
        return {carriers: str(exponent) for carriers, exponent in self.indices}

    def __str__(self) -> str:
        return " ".join(f"{carriers}^{_bracketed(exponent)}" for carriers, exponent in self.indices)


def _bracketed(exponent: Linear) -> str:
    text = str(exponent).replace(" ", "")
    return text if re.fullmatch(r"[a-z]|[0-9/]+", text) else f"({text})"


def has_free_exponents(text: str) -> bool:
    """Whether a text gives carrier sets with letters as exponents.

    >>> has_free_exponents("XA^a XB^(1-a) YA^1"), has_free_exponents("XA XAB=d/4 YB YAB=4")
    (True, False)
    >>> has_free_exponents("XA^1e-9 XB YA YB")  # a number, which no exponent may be written as
    False
    """
    exponents = _SCIENTIFIC.sub("^0", text)
    return bool(re.match(r"\s*[A-Z]{2,}(?=[\s^])", text, re.ASCII)) and bool(re.search(r"\^\S*[a-z]|\^\(", exponents))


def parse_free_structure(text: str, *, block_diagonal: bool = False) -> FreeStructure:
    """Read carrier sets with linear exponents; bare input and output indices share the rest.

    Raises:
        StructureError: for text that cannot be read, exponents of a side that
            do not sum to 1 whatever the letters are, a range without inside,
            or a factor that another one can hold.

    >>> print(parse_free_structure("XA XAB^a YB^e YAB AB^r"))
    XA^(1-a) XAB^a YB^e YAB^(1-e) AB^r
    """
    if len(text) > _MAX_LENGTH:
        raise StructureError(
            f"the text of a structure has {len(text)} characters: it must have 1 to {_MAX_LENGTH}",
            remedy="write for example 'XA^a XAB^(1-a) YB^(1-a) YAB^a'",
        )
    given: dict[str, Linear | None] = {}
    for term in _terms(text):
        carriers, exponent = _read_term(term, text)
        refuse_second(carriers, given, text)
        given[carriers] = exponent
    filled = _with_rest(given, text)
    _check_sides(filled, text)
    live = tuple((carriers, exponent) for carriers, exponent in filled.items() if exponent != ZERO)
    free = FreeStructure(live, block_diagonal)
    _check_range(free, text)
    return free


def _terms(text: str) -> Iterator[str]:
    """Split at spaces outside brackets."""
    depth, term = 0, ""
    for char in text:
        depth += (char == "(") - (char == ")")
        if char.isspace() and depth <= 0:
            if term:
                yield term
            term = ""
        else:
            term += char
    if term:
        yield term


def _read_term(term: str, whole: str) -> tuple[str, Linear | None]:
    match = _TERM.fullmatch(term)
    if not match:
        raise StructureError(
            f"{term[:40]!r} in {whole[:80]!r} is not a term: with letters as exponents, terms are carriers^exponent",
            remedy="write terms such as XA^a or XAB^(1-a); a fixed size has exponent 0 and can be left out",
        )
    return in_standard_order(match["carriers"]), parse_linear(match["exponent"]) if match["exponent"] else None


def _with_rest(given: Mapping[str, Linear | None], whole: str) -> dict[str, Linear]:
    """Give bare indices equal shares of what the other indices of their side leave."""
    filled: dict[str, Linear] = {}
    for carriers, exponent in given.items():
        side = next((tensor for tensor in "XY" if tensor in carriers), None)
        if exponent is None and side is None:
            raise StructureError(
                f"the bond {carriers} in {whole[:80]!r} has no exponent: only input and output indices take the rest",
                remedy=f"write {carriers}^r",
            )
        if exponent is None:
            same = [e for c, e in given.items() if str(side) in c]
            rest = UNIT - sum((e for e in same if e is not None), ZERO)
            exponent = rest.times(Fraction(1, same.count(None)))
        filled[carriers] = exponent
    return filled


def _check_sides(indices: Mapping[str, Linear], whole: str) -> None:
    for tensor, name in (("X", "input"), ("Y", "output")):
        total = sum((e for c, e in indices.items() if tensor in c), ZERO)
        if total != UNIT:
            raise StructureError(
                f"the {name} exponents of {whole[:80]!r} sum to {total}: they must sum to 1 whatever the letters are",
                remedy=f"leave one index that {tensor} carries bare to let it take the rest, or write it as (1-…)",
            )


def _check_range(free: FreeStructure, whole: str) -> None:
    if len(free.symbols) > MAX_SYMBOLS:
        raise StructureError(
            f"{whole[:80]!r} has {len(free.symbols)} letters: at most {MAX_SYMBOLS} are worked out",
            remedy="give numbers for some of them",
        )
    inside = free.domain.inside
    if inside is None:
        raise StructureError(
            f"no values of {', '.join(free.symbols)} make all exponents of {whole[:80]!r} lie between 0 and 1",
            remedy="change the exponents, or leave out those that can only be 0",
        )
    kept = free.at(inside).factors
    if len(kept) != len(free.factors):
        raise StructureError(
            f"{whole[:80]!r} has a factor whose indices another factor carries as well: "
            f"the two are one, and {len(kept)} of {len(free.factors)} factors are needed",
            remedy="leave that factor out, and with it its indices that are then left in one tensor",
        )
