"""Structures as einsum equations with sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.carrier_notation import REST, share_rest
from einsearch_cli.structures.extent import MAX_DIMENSION, ONE, Extent, parse_size
from einsearch_cli.structures.feature_order import FeatureOrder
from einsearch_cli.structures.moe import NamedStructure
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, text_of_carriers
from einsearch_cli.structures.structure import Structure

_EQUATION = re.compile(r"[A-Za-z.,]+->[A-Za-z.]+")
_MAX_EXPONENT_DENOMINATOR = 4
"""Largest denominator of an exponent read from a size: at d = 1024, 32 is d^1/2, but 4 is a fixed size and not d^1/5.
"""


def parse_einsum(text: str, sizes: Mapping[str, str] | None = None, *, block_diagonal: bool = False) -> NamedStructure:
    """Read `'bgn,gnr,gro->bo; g=4, n=256, r=128, o=1024'`; the sizes may also be given separately.

    The first operand is the input, the last one the output. Letters that both carry and no factor does are the batch
    and stand in front; with `block_diagonal`, they are indices if they have a size. The other letters of input and
    output give the order of the features (`Structure.order`), the slowest one first. A letter in one factor alone is
    summed away.

    A size is a whole number, `d^1/2`, `d/4` or `rest`. If all sizes are whole numbers, they fix d_in and d_out. A size
    that is exactly d^(1/2), d^(1/3), d^(1/4) or a multiple of these exponents is then read as that power, so that the
    structure can be scaled; the other sizes are fixed, and the largest of each side takes the rest. As soon as one size
    is written with d or `rest`, whole numbers are fixed sizes.

    Raises:
        StructureError: naming the letter or operand that breaks a rule.

    >>> str(parse_einsum("bgn,gnr,gro->bo; g=4, n=rest, r=64, o=rest").structure)
    'XA=1/4*d XAB=4 YB^1 AB=64 order:XAB,XA/YB'
    """
    equation, _, size_text = text.partition(";")
    equation = re.sub(r"\s", "", equation)
    operands = _operands(equation)
    given = {**parse_size_list(size_text, text), **{k: v.strip() for k, v in (sizes or {}).items()}}
    carriers = _carriers_of_letters(*operands, set(given) if block_diagonal else set())
    _check_letters(carriers, given, equation)
    _check_batch(operands[0], operands[-1], carriers, equation)
    order = _order(operands[0], operands[-1], carriers)
    if all(re.fullmatch(r"[0-9]+", given[letter]) for letter in carriers):
        sizes_of = {letter: int(given[letter]) for letter in carriers}
        return _from_whole_sizes(carriers, sizes_of, equation, block_diagonal, order)
    extents: dict[str, Extent] = {}
    bare: list[str] = []
    for letter, text_of_size in given.items():
        if text_of_size == REST:
            bare.append(carriers[letter])
        else:
            extent = parse_size(text_of_size, f"{letter}={text_of_size}")
            extents[carriers[letter]] = extents.get(carriers[letter], ONE) * extent
    if both := sorted(set(bare) & set(extents)):
        raise StructureError(
            f"two letters of {equation!r} form the index {both[0]}: only one of them has a size",
            remedy="merge the two letters, or give both a size",
        )
    shared = share_rest(extents, dict.fromkeys(bare), equation)
    return NamedStructure(Structure.of(shared, block_diagonal=block_diagonal, order=order))


def einsum_text(structure: Structure, equation: str, letters: Mapping[str, str]) -> str:
    """An equation with sizes that reads back to this structure."""
    sizes = ", ".join(f"{letters[carriers]}={extent.size_text}" for carriers, extent in structure.indices)
    text = f"{equation}; {sizes}"
    if parse_einsum(text, block_diagonal=structure.is_block_diagonal).structure.unordered == structure.unordered:
        return text
    return f"{equation}; " + sizes.replace("=d,", f"={REST},")


def parse_size_list(text: str, where: str | None = None) -> dict[str, str]:
    """Read `g=4, n=256` (as in `--sizes`), which stands in `where` if that is given."""
    where = where or text
    sizes: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        letter, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z]", letter) or letter in sizes:
            raise StructureError(
                f"{part[:40]!r} in {where[:80]!r} is not a size: each letter gets one, as letter=size",
                remedy="write sizes such as g=4, n=d/4, r=64, o=rest",
            )
        sizes[letter] = value
    return sizes


def _operands(equation: str) -> tuple[str, list[str], str]:
    if foreign := re.search(r"[^\x00-\x7f]", equation):
        raise StructureError(
            f"{foreign[0]!r} (U+{ord(foreign[0]):04X}) in {equation[:80]!r} is not an index: "
            "indices are the 52 letters a to z and A to Z",
            remedy="write for example 'bgn,gnr,gro->bo'",
        )
    if not _EQUATION.fullmatch(equation) or equation.count(",") < 1:
        raise StructureError(
            f"{equation[:80]!r} is not an einsum equation of a layer: it needs an input, factors and an output",
            remedy="write for example 'bgn,gnr,gro->bo'",
        )
    left, output = equation.split("->")
    operands = [part.removeprefix("...") for part in left.split(",")]
    output = output.removeprefix("...")
    for operand in [*operands, output]:
        repeated = next((letter for letter in operand if operand.count(letter) > 1 or letter == "."), None)
        if repeated or not operand:
            raise StructureError(
                f"operand {operand!r} of {equation[:80]!r} {'repeats ' + repeated if repeated else 'is empty'}: "
                "a tensor carries an index once",
                remedy="give every axis of a tensor its own letter",
            )
    if len(operands) - 1 > len(FACTOR_LETTERS):
        raise StructureError(
            f"{equation[:80]!r} has {len(operands) - 1} factors: at most {len(FACTOR_LETTERS)} have a name",
            remedy="merge factors into one",
        )
    return operands[0], operands[1:], output


def _carriers_of_letters(x: str, factors: list[str], y: str, shared: set[str]) -> dict[str, str]:
    """Map every letter to its carrier set; letters of input and output alone that are not `shared` are the batch."""
    carriers: dict[str, str] = {}
    for letter in dict.fromkeys("".join([x, *factors, y])):
        holders = {name for name, factor in zip(FACTOR_LETTERS, factors, strict=False) if letter in factor}
        holders |= ({"X"} if letter in x else set()) | ({"Y"} if letter in y else set())
        if holders == {"X", "Y"} and letter not in shared:
            continue
        if holders in ({"X"}, {"Y"}):
            side = "input" if "X" in holders else "output"
            raise StructureError(
                f"{side} letter {letter!r} is in no factor: every {side} index must be carried by a factor",
                remedy=f"add {letter} to a factor, or take it out of the {side}",
            )
        carriers[letter] = text_of_carriers(frozenset(holders))
    return carriers


def _check_batch(x: str, y: str, carriers: Mapping[str, str], equation: str) -> None:
    """Raise StructureError unless the batch letters stand in front, in the same order in input and output."""
    in_x, in_y = ("".join(letter for letter in side if letter not in carriers) for side in (x, y))
    if in_x != in_y or not x.startswith(in_x) or not y.startswith(in_y):
        raise StructureError(
            f"{equation[:80]!r} has the batch letters {in_x} in the input {x!r} and {in_y} in the output {y!r}: "
            "they must stand in front and in the same order in both",
            remedy=f"write {in_x} in front of the other letters of input and output, or ... in their place",
        )


def _order(x: str, y: str, carriers: Mapping[str, str]) -> FeatureOrder:
    """The letters of input and output as names of indices; several letters of one index are its parts."""
    names: dict[str, str] = {}
    for letter in (letter for letter in dict.fromkeys(x + y) if letter in carriers):
        names[letter] = carriers[letter] + "'" * sum(carriers[letter] == carriers[other] for other in names)
    inputs, outputs = (tuple(names[letter] for letter in side if letter in names) for side in (x, y))
    return FeatureOrder(inputs, outputs)


def _check_letters(carriers: Mapping[str, str], sizes: Mapping[str, str], equation: str) -> None:
    if unknown := sorted(set(sizes) - set(carriers)):
        raise StructureError(
            f"size for {unknown[0]!r}: {equation[:80]!r} has no such index (batch letters take no size)",
            remedy=f"give sizes for {', '.join(carriers)}",
        )
    if missing := [letter for letter in carriers if letter not in sizes]:
        raise StructureError(
            f"{equation[:80]!r} has no size for {', '.join(missing)}: every letter but the batch needs one",
            remedy="--sizes " + ",".join(f"{letter}={sizes.get(letter, 4)}" for letter in carriers),
        )


def _from_whole_sizes(
    carriers: Mapping[str, str],
    sizes: Mapping[str, int],
    equation: str,
    block_diagonal: bool,
    order: FeatureOrder,
) -> NamedStructure:
    merged: dict[str, int] = {}
    for letter, size in sizes.items():
        if not 1 <= size <= MAX_DIMENSION:
            raise StructureError(
                f"{letter}={size} in {equation[:80]!r}: sizes must be from 1 to 2^48", remedy=f"write {letter}=4"
            )
        if len(carriers[letter]) > 1:
            merged[carriers[letter]] = merged.get(carriers[letter], 1) * size
    dims = {t: math.prod(size for c, size in merged.items() if t in c) for t in "XY"}
    extents = {c: _bond_extent(size, min(dims.values())) for c, size in merged.items() if not set(c) & {"X", "Y"}}
    shared = {c: size for c, size in merged.items() if {"X", "Y"} <= set(c)}
    as_powers = not shared or (
        dims["X"] == dims["Y"]
        and all(_exact_exponent(size, dims["X"]) is not None for c, size in merged.items() if {"X", "Y"} & set(c))
    )
    for tensor, d in dims.items():
        extents |= _side_extents({c: size for c, size in merged.items() if tensor in c}, d, as_powers)
    structure = Structure.of(extents, block_diagonal=block_diagonal, order=order)
    return NamedStructure(structure, d_in=dims["X"], d_out=dims["Y"])


def _side_extents(sizes: Mapping[str, int], d: int, as_powers: bool) -> dict[str, Extent]:
    """Exponents for all sizes if these are exact powers of d; otherwise fixed sizes, and the largest takes the rest.

    An index of this side alone takes the rest, if there is one.
    """
    powers = {carriers: _exact_exponent(size, d) for carriers, size in sizes.items()}
    if as_powers and all(exponent is not None for exponent in powers.values()) and d > 1:
        return {carriers: Extent.power(exponent or Fraction(0)) for carriers, exponent in powers.items()}
    own = [carriers for carriers in sizes if not {"X", "Y"} <= set(carriers)]
    largest = max(own or sizes, key=lambda carriers: sizes[carriers])
    fixed = {carriers: Extent.fixed(size) for carriers, size in sizes.items() if carriers != largest}
    return fixed | {largest: Extent(Fraction(sizes[largest], d), Fraction(1))}


def _bond_extent(size: int, d: int) -> Extent:
    exponent = _exact_exponent(size, d)
    return Extent.fixed(size) if exponent is None else Extent.power(exponent)


def _exact_exponent(size: int, d: int) -> Fraction | None:
    """The exponent p/q, q ≤ 4, with size = d^(p/q) exactly, or None."""
    for q in range(1, _MAX_EXPONENT_DENOMINATOR + 1):
        for p in range(q + 1):
            if size**q == d**p:
                return Fraction(p, q)
    return None
