"""Named families: text with parameters in, structure out; and the name of a structure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.extent import ONE, Extent, parse_size
from einsearch_cli.structures.normal_form import D
from einsearch_cli.structures.structure import Structure

HALF = Extent.power(Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class Family:
    """A named family of structures."""

    name: str
    carriers: str
    """Carrier sets, with the extents that the parameters give."""
    parameters: Mapping[str, Extent | None]
    """Parameter → default; None if it must be given."""
    build: Callable[[Mapping[str, Extent]], dict[str, Extent]]
    guess: Callable[[Structure], dict[str, Extent]]
    """The parameters a structure of this family must have been built with."""
    source: str

    @property
    def carrier_sets(self) -> frozenset[str]:
        return frozenset(term.partition("=")[0].partition("^")[0] for term in self.carriers.split())


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family; the command line and the recognition find it by its name."""
    FAMILIES[family.name] = family
    return family


def find_family(name: str) -> Family:
    """The family of that name.

    Raises:
        StructureError: naming the nearest family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.0)
    raise StructureError(
        f"no structure or family is named {name[:40]!r}: families are {', '.join(FAMILIES)}",
        remedy=f"{near[0]}, or carrier sets such as XA^1/2 XAB^1/2 YB^1/2 YAB^1/2",
    )


def parse_family(text: str) -> Structure:
    """Read `low-rank:r=64`, `monarch:blocks=4`, `btt:r=d^1/4` and the like.

    Raises:
        StructureError: for an unknown family, or a parameter that is unknown, missing or no size.

    >>> print(parse_family("low-rank:r=64"))
    XA^1 YB^1 AB=64
    """
    name, _, rest = text.strip().partition(":")
    family = find_family(name.strip().lower())
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
    values = {key: given.get(key, default) for key, default in family.parameters.items()}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise StructureError(
            f"{text[:80]!r} does not say {', '.join(missing)}: {family.name} needs it", remedy=usage(family)
        )
    return Structure.of(family.build({key: value for key, value in values.items() if value is not None}))


def usage(family: Family) -> str:
    """An example of the family's text."""
    parameters = ",".join(
        f"{key}={(default or Extent.fixed(64)).size_text}" for key, default in family.parameters.items()
    )
    return f"{family.name}:{parameters}" if parameters else family.name


def family_text(structure: Structure) -> str | None:
    """The shortest family text that reads back to this structure, or None.

    >>> family_text(parse_family("btt:r=2,blocks=d^1/2"))
    'btt:r=2'
    """
    carriers = {carriers for carriers, _ in structure.indices}
    for family in FAMILIES.values():
        if not carriers <= family.carrier_sets:
            continue
        values = family.guess(structure)
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

    >>> family_of(parse_family("btt:r=1")), family_of(parse_family("block-shuffle:blocks=4"))
    ('monarch', 'block-shuffle')
    """
    text = family_text(structure)
    if text is not None:
        return text.partition(":")[0]
    return _BY_CARRIERS.get(frozenset(carriers for carriers, _ in structure.indices), "generic")


_BY_CARRIERS = {
    frozenset({"XA", "XB", "YA", "YB"}): "kronecker",
    frozenset({"XA", "XB", "YA", "YB", "AB"}): "tt",
    frozenset({"XA", "XAB", "YB", "YAB"}): "monarch",
    frozenset({"XA", "XAB", "YB", "YAB", "AB"}): "btt",
    frozenset({"XA", "XAB", "YB", "AB"}): "block-dense",
}
"""Members whose sizes no parameter reaches, such as a Kronecker product of unequal factors."""


def _monarch(values: Mapping[str, Extent]) -> dict[str, Extent]:
    blocks = values["blocks"]
    return {"XA": D / blocks, "XAB": blocks, "YB": D / blocks, "YAB": blocks, "AB": values.get("r", ONE)}


def _block_shuffle(values: Mapping[str, Extent]) -> dict[str, Extent]:
    blocks = values["blocks"]
    if not blocks.is_fixed:
        raise StructureError(
            f"block-shuffle with {blocks.size_text} blocks: the number of blocks must be fixed",
            remedy="block-shuffle:blocks=4, or btt:r=d^1/2,blocks=d^1/4",
        )
    return _monarch({"blocks": blocks, "r": D / (blocks * blocks)})


register(Family("dense", "XA YA", {}, lambda _: {"XA": D, "YA": D}, lambda _: {}, "one matrix"))
register(
    Family(
        "low-rank",
        "XA AB=r YB",
        {"r": HALF},
        lambda v: {"XA": D, "AB": v["r"], "YB": D},
        lambda s: {"r": s.extent("AB")},
        "Wei et al. 2024",
    )
)
register(
    Family(
        "kronecker",
        "XA^1/2 XB^1/2 YA^1/2 YB^1/2",
        {},
        lambda _: {"XA": HALF, "XB": HALF, "YA": HALF, "YB": HALF},
        lambda _: {},
        "Potapczynski et al. 2024",
    )
)
register(
    Family(
        "tt",
        "XA^1/2 XB^1/2 YA^1/2 YB^1/2 AB=r",
        {"r": None},
        lambda v: {"XA": HALF, "XB": HALF, "YA": HALF, "YB": HALF, "AB": v["r"]},
        lambda s: {"r": s.extent("AB")},
        "tensor-train: Potapczynski et al. 2024",
    )
)
register(
    Family(
        "monarch",
        "XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks",
        {"blocks": HALF},
        _monarch,
        lambda s: {"blocks": s.extent("XAB")},
        "BTT of rank 1: Potapczynski et al. 2024",
    )
)
register(
    Family(
        "block-shuffle",
        "XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks AB=d/blocks^2",
        {"blocks": Extent.fixed(4)},
        _block_shuffle,
        lambda s: {"blocks": s.extent("XAB")},
        "Wei et al. 2024",
    )
)
register(
    Family(
        "btt",
        "XA=d/blocks XAB=blocks YB=d/blocks YAB=blocks AB=r",
        {"r": ONE, "blocks": HALF},
        _monarch,
        lambda s: {"r": s.extent("AB"), "blocks": s.extent("XAB")},
        "block tensor-train: Qiu et al. 2024",
    )
)
register(
    Family(
        "block-dense",
        "XA=d/blocks XAB=blocks AB=r/blocks YB",
        {"blocks": Extent.fixed(4), "r": None},
        lambda v: {"XA": D / v["blocks"], "XAB": v["blocks"], "AB": v["r"] / v["blocks"], "YB": D},
        lambda s: {"blocks": s.extent("XAB"), "r": s.extent("XAB") * s.extent("AB")},
        "Wei et al. 2024; r is the rank of the whole layer",
    )
)
