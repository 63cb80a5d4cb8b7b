"""The filters that `enumerate` and `sample` share."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli.completing import complete_family
from einsearch_cli.cli.options import flag, out_file
from einsearch_cli.cli.output import Format, format_option
from einsearch_cli.errors import SpecError, StructureError, near_name

if TYPE_CHECKING:
    from einsearch_cli.structures.index_classes import IndexClasses
    from einsearch_cli.taxonomy import Bounds, ExponentRange, Space

MAX_SPACE_FACTORS = 5
MIN_PSI = typer.Option("0", metavar="BOUND", help="Smallest rank exponent ψ, such as 1, 1/2 or '>1/2'.")
MAX_OMEGA = typer.Option("inf", metavar="BOUND", help="Largest parameter sharing ω, such as 0 or '<1/2'.")
MAX_NU = typer.Option("inf", metavar="BOUND", help="Largest compute exponent ν (dense: 1), such as 3/4 or '<1'.")
FIX = typer.Option(
    None,
    "--fix",
    metavar="BOUND",
    help="Bound on the exponent of a carrier set, as printed: AB=0, 'XAB<=1/4', XA=1/4..1/2. Repeatable.",
)
BLOCK_DIAGONAL = flag("--allow-block-diagonal", "Also indices that both X and Y carry.")
FAMILY = typer.Option(
    None,
    metavar="NAME",
    autocompletion=complete_family,
    help="Only this family; see `einsearch families`.",
    show_default="all families",
)
TREES = typer.Option(
    None,
    "--trees",
    metavar="TAU",
    help="ν and ω over trees that multiply factors first, for calls of d^TAU tokens, such as 1 or 1/2.",
)
FORMAT = format_option(default=None)
LIST_FORMAT = format_option(tuple(Format), default=None)
OUT = out_file(help="Write to this file; einsearch rank reads .yaml, .json, .jsonl and .csv.", shown="standard output")
PARETO = flag("--pareto", "Only those that none beats in ω, ψ and ν together.")


def space_of(
    unit: int,
    factors: int,
    min_psi: str,
    max_omega: str,
    max_nu: str,
    family: str | None,
    fix: list[str] | None,
    trees: str | None,
    **more: bool,
) -> Space:
    """The space within the filters, with exponents in multiples of 1/unit; checked before any work is done."""
    from einsearch_cli.structures.index_classes import IndexClasses
    from einsearch_cli.taxonomy import Space, common_unit

    if factors > MAX_SPACE_FACTORS:
        raise SpecError(
            f"--factors {factors}: whole spaces have 1 to {MAX_SPACE_FACTORS} factors",
            remedy=f"choose --factors {MAX_SPACE_FACTORS} or fewer; single structures of up to 8 factors are taken "
            "by einsearch classify, draw and rank",
        )
    tau = token_exponent(trees)
    bounds = bounds_of(min_psi, max_omega, max_nu, common_unit(unit, tau))
    ranges = _ranges(fix, IndexClasses(factors, more["block_diagonal"]), unit)
    return Space(unit, factors, bounds, _known_family(family), ranges, tokens=tau, **more)


def token_exponent(text: str | None) -> Fraction | None:
    """The τ of the option, None without it.

    >>> print(token_exponent("0.33"))
    1/3
    """
    if text is None:
        return None
    from einsearch_cli.structures.extent import parse_rational

    try:
        return parse_rational(text, "--trees")
    except StructureError as error:
        raise SpecError(
            f"--trees {text[:40]!r} is not the τ of calls of d^τ tokens: it must be a number from 0 on",
            remedy="write --trees 1, or a fraction such as --trees 1/2",
        ) from error


def bounds_of(min_psi: str, max_omega: str, max_nu: str, unit: int) -> Bounds:
    """Bounds from text; `<` and `>` leave the number itself out, by one step of 1/unit.

    >>> str(bounds_of("1", "0", "<1", unit=4).max_nu)
    '3/4'
    """
    from einsearch_cli.taxonomy import EVERYTHING, Bounds

    smallest_psi = _bound(min_psi, "--min-psi", ">", unit)
    if smallest_psi > 1:
        raise SpecError(f"--min-psi {min_psi[:40]!r}: ψ is at most 1, full rank", remedy="write --min-psi 1")
    return Bounds(
        min_psi=smallest_psi,
        max_omega=EVERYTHING.max_omega if max_omega == "inf" else _bound(max_omega, "--max-omega", "<", unit),
        max_nu=EVERYTHING.max_nu if max_nu == "inf" else _bound(max_nu, "--max-nu", "<", unit),
    )


def _bound(text: str, option: str, strict: str, unit: int) -> Fraction:
    text = text.strip()
    if not text.startswith(strict):
        return _number(text, text, option, strict)
    number = _number(text[1:].removeprefix("=").strip(), text, option, strict)
    if text[1:].startswith("="):
        return number
    steps = math.floor(number * unit) + 1 if strict == ">" else math.ceil(number * unit) - 1
    return Fraction(steps, unit)


def _number(number: str, text: str, option: str, strict: str) -> Fraction:
    """The exact number of a bound; those on ω may be negative, which ω of contraction trees can be."""
    from einsearch_cli.structures.extent import exact_rational

    negative = option == "--max-omega" and number.startswith("-")
    found = exact_rational(number.removeprefix("-") if negative else number)
    if found is None:
        raise SpecError(
            f"{option} {text[:40]!r} is not a bound: it must be a number{'' if option == '--max-omega' else ' from 0 on'}, "
            "written as a fraction or a decimal of up to 24 characters, without an exponent",
            remedy=f"write {option} 1/2, {option} 0.5 or {option} '{strict}1/2'",
        )
    return -found if negative else found


def _ranges(fixed: list[str] | None, classes: IndexClasses, unit: int) -> tuple[ExponentRange, ...]:
    """The bounds on carrier sets."""
    from einsearch_cli.taxonomy import parse_range

    found = tuple(parse_range(text) for text in fixed or ())
    for text, given in zip(fixed or (), found, strict=True):
        if given.carriers not in classes.carriers:
            shared = {"X", "Y"} <= given.carriers
            raise SpecError(
                f"--fix {text[:60]!r}: structures of {classes.factors} factors have no such index"
                + (", as X and Y share none" if shared else ""),
                remedy="add --allow-block-diagonal" if shared else "name another carrier set, or raise --factors",
            )
        bottom, top = given.on_grid(unit)
        if bottom > top:
            raise SpecError(
                f"--fix {text[:60]!r}: no multiple of 1/{unit} is within this bound",
                remedy="choose a --grid that has it, or a wider bound such as 'AB<=1/4'",
            )
    return found


def _known_family(name: str | None) -> str | None:
    """The family's name, checked."""
    from einsearch_cli.structures.families import FAMILIES, find_family

    if name is None or name == "generic":
        return name
    try:
        return find_family(name).name
    except StructureError as error:
        near = near_name(name.lower(), (*FAMILIES, "generic"))
        raise SpecError(
            f"--family {name[:40]!r}: families are {', '.join(FAMILIES)}, and generic for structures of none",
            remedy=f"--family {near}" if near else "--family monarch, or another of these names",
        ) from error


def ways_out(space: Space) -> str:
    """Options each of which gives a space without structures some."""
    from einsearch_cli.taxonomy.emptying import has_structures, relaxed_bounds

    ways = [f"--{name.replace('_', '-')} {value}" for name, value in relaxed_bounds(space).items()]
    wider = {f"no --fix {bound}": replace(space, ranges=_without(bound, space.ranges)) for bound in space.ranges}
    wider |= {f"no --family {space.family}": replace(space, family=None)} if space.family else {}
    wider |= {"no --exactly": replace(space, exactly=False)} if space.exactly else {}
    ways += [way for way, other in wider.items() if has_structures(other)]
    return ", or ".join(ways) or "relax several of the limits together"


def _without(bound: ExponentRange, ranges: tuple[ExponentRange, ...]) -> tuple[ExponentRange, ...]:
    return tuple(other for other in ranges if other != bound)
