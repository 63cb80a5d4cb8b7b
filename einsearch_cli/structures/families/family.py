"""The type of families, the register of all families, and how their text is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.errors import StructureError, near_name
from einsearch_cli.plugins import load_all_installed
from einsearch_cli.register import add_once
from einsearch_cli.structures.extent import ONE, Extent, parse_size
from einsearch_cli.structures.feature_order import FeatureOrder
from einsearch_cli.structures.normal_form import MAX_FACTORS
from einsearch_cli.structures.structure import Structure

HALF = Extent.power(Fraction(1, 2))
ORDER = "n"
"""The parameter that gives the number of axes which the input and the output are split into."""

Values = Mapping[str, Extent]


@dataclass(frozen=True, slots=True)
class Formulas:
    """Formulas of ω, ψ and ν in the order n and the exponents of the parameters: r = d^ρ, blocks = d^β.

    Written with `*`, `/`, `min` and `max`, so that they can be read back.
    """

    omega: str
    psi: str
    nu: str
    where: str = ""
    """The range of the parameters in which the formulas hold, if not everywhere."""


@dataclass(frozen=True, slots=True)
class Family:
    """A named family of structures."""

    name: str
    carriers: str
    """The carrier sets, with the extents that the parameters give."""
    parameters: Mapping[str, Extent | None]
    """Every parameter with its default; None if it must be given. A count `n` is a fixed size."""
    build: Callable[[Values], dict[str, Extent]]
    formulas: Formulas
    source: str
    guess: Callable[[Structure], dict[str, Extent]] | None = None
    """How `values_of` finds the parameters; None where their names `n`, `r` and `blocks` are enough."""
    factors: Callable[[int], int] = lambda n: n
    """The number of factors at order n; a family without `n` has order 2."""
    by_carriers: bool = False
    """Whether every structure with these carrier sets is a member, whatever the sizes of its indices."""
    pairs_only: frozenset[str] = frozenset()
    """Parameters that exist only at order 2."""
    counts_back: bool = False
    """Whether features count through the axes from the last to the first, as the blocks of a block diagonal do."""

    @property
    def has_orders(self) -> bool:
        """Whether there is a member for every number of axes."""
        return ORDER in self.parameters

    def order(self, factors: int) -> int | None:
        """The order n at which the family has this many factors, or None."""
        orders = range(1, factors + 1) if self.has_orders else (2,)
        return next((n for n in orders if self.factors(n) == factors), None)

    def values_of(self, structure: Structure) -> dict[str, Extent]:
        """The parameters with which a structure of this family must have been built, whatever its factors are called."""
        if self.guess is not None:
            return self.guess(structure)
        factors = len(structure.factors)
        bonds = (extent for carriers, extent in structure.indices if not set(carriers) & {"X", "Y"})
        known = {
            ORDER: Extent.fixed(self.order(factors) or 1),
            "r": next(bonds, ONE),
            "blocks": structure.extent("XAB") if factors == 2 else HALF,
        }
        return {name: known[name] for name in self.parameters}

    def standard_order(self, indices: Iterable[str]) -> FeatureOrder:
        """The order of the features when indices stand as `build` lists them: row-major, the slowest one first."""
        listed = list(indices)
        if self.counts_back:
            listed.reverse()
        inputs, outputs = (tuple(c for c in listed if tensor in c) for tensor in "XY")
        return FeatureOrder(inputs, outputs)


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family, so that the command line and the recognition find it by its name.

    Raises:
        ValueError: another one has that name.
    """
    return add_once("families", FAMILIES, family.name, family)


def find_family(name: str) -> Family:
    """Find a family by its name.

    Raises:
        StructureError: naming the family that was probably meant, if one is near.
    """
    known = name.lower()
    if known not in FAMILIES:
        load_all_installed("families", warnings.warn)
    if known in FAMILIES:
        return FAMILIES[known]
    near = near_name(known, FAMILIES)
    raise StructureError(
        f"no structure or family is named {name[:40]!r}: families are {', '.join(FAMILIES)}, with experts as in btt-moe",
        remedy=f"{near or 'a family such as btt:r=2'}, or carrier sets such as XA^1/2 XAB^1/2 YB^1/2 YAB^1/2",
    )


def parse_family(text: str) -> Structure:
    """Read `low-rank:r=64`, `monarch:blocks=4`, `btt:n=3,r=d^1/4` and the like.

    Raises:
        StructureError: for an unknown family, or a parameter that is unknown, missing or no size.

    >>> print(parse_family("low-rank:r=64"))
    XA^1 YB^1 AB=64
    >>> print(parse_family("monarch:n=3"))
    XA^1/3 XAB^1/3 XABC^1/3 YC^1/3 YBC^1/3 YABC^1/3
    """
    name, _, rest = text.strip().partition(":")
    family = find_family(name.strip())
    given = _given(family, rest, text)
    _check_order(family, given, text)
    values = {key: given.get(key, default) for key, default in family.parameters.items()}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise StructureError(
            f"{text[:80]!r} does not say {', '.join(missing)}: {family.name} needs it", remedy=usage(family)
        )
    return Structure.of(family.build({key: value for key, value in values.items() if value is not None}))


def _given(family: Family, rest: str, text: str) -> dict[str, Extent]:
    given: dict[str, Extent] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or key not in family.parameters or key in given:
            known = ", ".join(f"{p}=…" for p in family.parameters) or "no parameters"
            raise StructureError(
                f"{part[:40]!r} in {text[:80]!r} is not a parameter of {family.name}: it takes {known}",
                remedy=usage(family),
            )
        given[key] = parse_size(value, text)
    return given


def _check_order(family: Family, given: Values, text: str) -> None:
    if ORDER not in given:
        return
    order = given[ORDER]
    most = max(n for n in range(1, MAX_FACTORS + 1) if family.factors(n) <= MAX_FACTORS)
    least = min(n for n in (1, 2) if family.factors(n) > 1)
    if not order.is_fixed or not least <= order.coefficient <= most:
        raise StructureError(
            f"n={order.size_text} in {text[:80]!r} is not an order of {family.name}: "
            f"n must be from {least} to {most}, as a structure may have {MAX_FACTORS} factors",
            remedy=f"{family.name}:n={min(most, 3)}",
        )
    if order.coefficient != 2 and (misplaced := sorted(family.pairs_only & set(given))):
        raise StructureError(
            f"{text[:80]!r} gives {misplaced[0]}: {family.name} takes it at n=2 only, "
            f"at n={order.size_text} every axis is d^1/{order.size_text}",
            remedy=f"leave {misplaced[0]} out, or write carrier sets with the sizes that you want",
        )


def order_of(values: Values) -> int:
    """The order n that the parameters give."""
    return int(values[ORDER].coefficient)


def usage(family: Family, n: int | None = None) -> str:
    """An example of the family's text, at order `n` if given.

    >>> usage(find_family("btt")), usage(find_family("btt"), 3)
    ('btt:r=1,blocks=d^1/2', 'btt:n=3,r=1')
    """
    left_out = {ORDER} if n is None else {ORDER, *family.pairs_only}
    shown = [] if n is None else [f"{ORDER}={n}"]
    shown += [f"{k}={(v or Extent.fixed(64)).size_text}" for k, v in family.parameters.items() if k not in left_out]
    return f"{family.name}:{','.join(shown)}" if shown else family.name


def carriers_at(family: Family, n: int) -> str:
    """The carrier sets of a family at order `n`, with its parameter for the bonds.

    >>> carriers_at(find_family("tt"), 3)
    'XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3 AB=r BC=r'
    """
    values = {key: default or HALF for key, default in family.parameters.items()}
    if "r" in values:
        values["r"] = HALF
    extents = family.build(values | {ORDER: Extent.fixed(n)})
    texts = {c: e.text if set(c) & {"X", "Y"} else "=r" for c, e in extents.items() if not e.is_one}
    return " ".join(f"{carriers}{text}" for carriers, text in texts.items())
