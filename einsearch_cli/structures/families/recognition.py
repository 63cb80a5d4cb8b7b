"""The name of a structure: the family that it is a member of."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.families.family import FAMILIES, ORDER, Family
from einsearch_cli.structures.feature_order import FeatureOrder
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, D, factors_of, text_of_carriers
from einsearch_cli.structures.structure import Structure

GENERIC = "generic"
_Pattern = frozenset[frozenset[str]]


def family_text(structure: Structure) -> str | None:
    """The shortest family text that reads back to this structure; None if there is none or it has an order of features.

    >>> from einsearch_cli.structures.families import parse_family
    >>> family_text(parse_family("btt:r=2,blocks=d^1/2")), family_text(parse_family("btt:n=3,r=2"))
    ('btt:r=2', 'btt:n=3,r=2')
    """
    if structure.order is not None:
        return None
    for family in _candidates(_carriers(structure), tuple(FAMILIES)):
        values = family.values_of(structure)
        try:
            same = Structure.of(family.build(values)) == structure
        except StructureError:
            continue
        if same:
            shown = [f"{k}={v.size_text}" for k, v in values.items() if v != family.parameters[k]]
            return f"{family.name}:{','.join(shown)}" if shown else family.name
    return None


def family_of(structure: Structure) -> str:
    """The family's name, or `generic`.

    Some members have sizes that no parameter gives, such as a Kronecker product of unequal factors. They are recognised
    by their carrier sets.

    >>> from einsearch_cli.structures.families import parse_family
    >>> family_of(parse_family("btt:r=1")), family_of(parse_family("block-shuffle:blocks=4"))
    ('monarch', 'block-shuffle')
    """
    text = family_text(structure.unordered)
    if text is not None:
        return text.partition(":")[0]
    return next((family.name for family in _members(_carriers(structure), tuple(FAMILIES))), GENERIC)


def standard_order(structure: Structure) -> FeatureOrder:
    """The order of features that is documented for a structure: that of its family, else that of its carrier sets.

    Row-major over the input and output axes of the family (`docs/reference/families.md`), in the order of the θ vector
    for structures of no family.

    >>> from einsearch_cli.structures.families import parse_family
    >>> print(standard_order(parse_family("kronecker:n=3")), standard_order(parse_family("monarch")))
    XA,XB,XC/YA,YB,YC XAB,XA/YB,YAB
    """
    return _standard_order(_carriers(structure), tuple(FAMILIES))


@lru_cache(maxsize=50_000)
def _standard_order(carriers: tuple[str, ...], names: tuple[str, ...]) -> FeatureOrder:
    found = frozenset(map(frozenset, carriers))
    for family in (FAMILIES[name] for name in names):
        named = _naming(found, family)
        if named is not None:
            own = {frozenset(named[t] for t in c): text_of_carriers(c) for c in found}
            listed = _indices(family, len(named) - 2)
            return family.standard_order(own[c] for c in listed if c in own)
    inputs, outputs = (tuple(c for c in carriers if tensor in c) for tensor in "XY")
    return FeatureOrder(inputs, outputs)


def _carriers(structure: Structure) -> tuple[str, ...]:
    return tuple(carriers for carriers, _ in structure.indices)


@lru_cache(maxsize=50_000)
def _candidates(carriers: tuple[str, ...], names: tuple[str, ...]) -> tuple[Family, ...]:
    """Families with these carrier sets; a family's bond may be missing, which means that its size is 1."""
    found = frozenset(map(frozenset, carriers))
    return tuple(FAMILIES[name] for name in names if _naming(found, FAMILIES[name]) is not None)


@lru_cache(maxsize=50_000)
def _members(carriers: tuple[str, ...], names: tuple[str, ...]) -> tuple[Family, ...]:
    """Families that hold every structure with these carrier sets; they have a bond if the structure has one."""
    found = frozenset(map(frozenset, carriers))
    families = (f for f in _candidates(carriers, names) if f.by_carriers)
    return tuple(f for f in families if _has_bonds(_indices(f, len(factors_of(found)))) == _has_bonds(found))


def _naming(found: _Pattern, family: Family) -> dict[str, str] | None:
    """The first naming of the factors that turns `found` into the family's carrier sets, or None."""
    letters = factors_of(found)
    if family.order(len(letters)) is None:
        return None
    wanted = frozenset(_indices(family, len(letters)))
    if _profile(found) != _profile(wanted):
        return None
    return _named(found, wanted, {"X": "X", "Y": "Y"}, letters)


def _named(found: _Pattern, wanted: _Pattern, names: dict[str, str], unnamed: list[str]) -> dict[str, str] | None:
    """Complete a naming so that it turns `found` into carrier sets that are all wanted; None if that is impossible.

    A name is given up as soon as it completes a carrier set that is not wanted. If all carrier sets of `found` are
    wanted, the two patterns are equal, since they have equally many sides.
    """
    if not unnamed:
        return names
    letter, rest = unnamed[0], unnamed[1:]
    for name in FACTOR_LETTERS[: len(names) - 2 + len(unnamed)]:
        if name not in names.values():
            longer = names | {letter: name}
            complete = (carriers for carriers in found if letter in carriers and carriers <= longer.keys())
            fits = all(frozenset(longer[tensor] for tensor in carriers) in wanted for carriers in complete)
            if fits and (whole := _named(found, wanted, longer, rest)) is not None:
                return whole
    return None


def _indices(family: Family, factors: int) -> list[frozenset[str]]:
    """The carrier sets of a member with this number of factors and with bonds, as the family lists them."""
    n = family.order(factors) or 2
    values = {key: _example(key, default, n) for key, default in family.parameters.items()}
    return [frozenset(c) for c, extent in family.build(values).items() if not extent.is_one]


def _example(parameter: str, default: Extent | None, n: int) -> Extent:
    if parameter == ORDER:
        return Extent.fixed(n)
    return D if default is None or default.is_one else default


def _has_bonds(pattern: Iterable[frozenset[str]]) -> bool:
    return any(not carriers & {"X", "Y"} for carriers in pattern)


def _profile(pattern: _Pattern) -> list[tuple[int, str]]:
    """The number of carriers of every input and output index; it is equal if one pattern can be renamed to the other."""
    sides = ((len(carriers), "".join(sorted(carriers & {"X", "Y"}))) for carriers in pattern)
    return sorted(side for side in sides if side[1])
