"""`einsearch enumerate`: all structures of a space."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from enum import StrEnum
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from einsearch_cli.cli import console, filters
from einsearch_cli.cli.listing import Listed, Place, chosen_list_format, write_list
from einsearch_cli.cli.options import MANY, OVERWRITE, flag, refuse_taken, whole_option
from einsearch_cli.cli.output import Format, counted, render, table
from einsearch_cli.cli.progress import share_progress
from einsearch_cli.errors import OutputError, StructureError

if TYPE_CHECKING:
    from einsearch_cli.taxonomy import Found, Space, SpaceCounts

SORTED_POINTS = 5_000_000
"""The most structures of a space that is sorted before it is written; larger ones are written as found."""
_REPORT_EVERY = 1000
"""Number of structures between two updates of the progress bar."""

HELP = """List all structures of up to N factors on a grid of exponents, each once, in normal form.

Spaces of up to 5,000,000 structures are sorted, best first: largest ψ, then
smallest ω, then smallest ν. Structures of larger spaces are written as they are
found, and --limit ends the search. --order chooses one of the two for any space.

--count gives the size of the space of exactly N factors. It counts all grid
points (raw), points that differ by more than the names of factors (distinct),
those that need all N factors (irreducible), and how many of these pass the
filters (survivors). Without filters all four numbers come from formulas.

With --trees TAU, factors may be multiplied with each other first: ν and ω are
those of the best contraction tree for calls of d^TAU tokens. Filters and order
use these values.

Examples:

  einsearch enumerate --grid 4 --min-psi 1 --max-omega 0 --max-nu 1/2

  einsearch enumerate --factors 3 --grid 4 --min-psi 1 --max-omega 0 --max-nu '<1' --exactly

  einsearch enumerate --factors 3 --grid 4 --fix AB=0 --pareto

  einsearch enumerate --factors 4 --grid 4 --count

  einsearch enumerate --grid 4 --trees 1 --min-psi 1 --max-omega '<0'

  einsearch enumerate --grid 2 --min-psi 1 --max-omega 0 --experts 8 --top 2

  einsearch enumerate --grid 4 --family btt --format yaml --out btt.yaml
  einsearch rank btt.yaml
"""


class Order(StrEnum):
    """Order in which structures are listed."""

    auto = "auto"
    best = "best"
    found = "found"


def enumerate_command(
    grid: int = whole_option("--grid", default=4, within=(1, 1000), help="Exponents are multiples of 1/N."),
    factors: int = whole_option("--factors", "-N", default=2, within=(1, MANY), help="Largest number of factors."),
    exactly: bool = flag("--exactly", "Only structures that need all these factors."),
    up_to_transpose: bool = flag("--up-to-transpose", "Only one of two structures that are each other's transpose."),
    allow_block_diagonal: bool = filters.BLOCK_DIAGONAL,
    fix: list[str] = filters.FIX,
    min_psi: str = filters.MIN_PSI,
    max_omega: str = filters.MAX_OMEGA,
    max_nu: str = filters.MAX_NU,
    family: str | None = filters.FAMILY,
    pareto: bool = filters.PARETO,
    trees: str | None = filters.TREES,
    experts: int | None = whole_option(
        "--experts",
        example=16,
        within=(1, 4096),
        help="List layers of this many experts of every structure; needs --top.",
    ),
    top: int | None = whole_option(
        "--top", example=2, within=(1, 4096), help="Experts that a token goes through; needs --experts."
    ),
    limit: int | None = whole_option("--limit", example=100, within=(1, MANY), help="Stop after this many."),
    order: Order = typer.Option(
        Order.auto, help="best: sorted; found: as they are found; auto: best, unless the space is large."
    ),
    count: bool = flag("--count", "Only say how many there are."),
    output: Format | None = filters.LIST_FORMAT,
    out: Path | None = filters.OUT,
    overwrite: bool = OVERWRITE,
) -> None:
    chosen = chosen_list_format(output, out)
    refuse_taken(out, overwrite)
    space = filters.space_of(
        grid, factors, min_psi, max_omega, max_nu, family, fix, trees,
        exactly=exactly, up_to_transpose=up_to_transpose, block_diagonal=allow_block_diagonal, pareto=pareto,
    )  # fmt: skip
    gating = _gating(experts, top)
    if count:
        _count(space, chosen, out)
    else:
        _list(space, order, limit, gating, chosen, out)


def _gating(experts: int | None, top: int | None) -> tuple[int, int] | None:
    """Numbers of experts and of those that a token uses, checked before any work is done."""
    from einsearch_cli.structures import MixtureOfExperts, parse_structure

    if experts is None and top is None:
        return None
    if experts is None or top is None:
        given, missing = ("--experts", "--top") if top is None else ("--top", "--experts")
        raise StructureError(
            f"{given} without {missing}: a layer of experts needs both", remedy="give for example --experts 16 --top 2"
        )
    MixtureOfExperts(parse_structure("dense"), experts, top)
    return experts, top


def _list(
    space: Space,
    order: Order,
    limit: int | None,
    gating: tuple[int, int] | None,
    output: Format,
    out: Path | None,
) -> None:
    from einsearch_cli.taxonomy import best_first, refuse_too_large, search

    points = sum(space.points(factors) for factors in space.factor_counts)
    best = order is Order.best or (order is Order.auto and points <= SORTED_POINTS)
    if best or limit is None:
        refuse_too_large(space)
    with share_progress("searching", wanted=out is not None or console.stdout_is_file()) as on_progress:
        found = _by_rows(best_first(list(search(space)))) if best else search(space)
        items = _listed(found, space.tokens, on_progress)
        if gating is not None:
            items = _of_experts(items, *gating)
        written = write_list(islice(items, limit), output, out)
    console.talk(counted(written, "structure"))
    if not written:
        console.talk(f"no structure is within all limits\n  try: {filters.ways_out(space)}")


def _by_rows(found: Iterable[Found]) -> Iterator[Found]:
    """Sorted structures, counted as done when written: searching a sorted space takes about a second."""
    items = list(found)
    total, rows = sum(len(item.batch) for item in items), 0
    for item in items:
        rows += len(item.batch)
        yield replace(item, done=rows / total)


def _listed(found: Iterable[Found], tokens: Fraction | None, on_progress: Callable[[float], None]) -> Iterator[Listed]:
    places: dict[tuple[int, int, int], Place] = {}
    before = 0.0
    for item in found:
        share = (item.done - before) / max(1, len(item.batch))
        rows = zip(item.structures(), item.texts(), item.taxonomy(), strict=True)
        for number, (structure, text, triple) in enumerate(rows):
            if number % _REPORT_EVERY == 0:
                on_progress(before + number * share)
            if triple not in places:
                omega, psi, nu = (Fraction(n, item.unit) for n in triple)
                places[triple] = Place.of(omega, psi, nu, tokens)
            yield Listed(structure, text, places[triple])
        before = item.done


def _of_experts(items: Iterable[Listed], experts: int, top: int) -> Iterator[Listed]:
    """The layers whose experts are the structures; place and rank are those of one expert."""
    from einsearch_cli.structures import MixtureOfExperts

    for item in items:
        mixture = MixtureOfExperts(item.structure, experts, top)
        yield replace(item, text=str(mixture), mixture=mixture)


def _count(space: Space, output: Format, out: Path | None) -> None:
    from einsearch_cli.taxonomy import count

    if output is Format.parquet:
        raise OutputError("--count with parquet: four numbers are not a table of structures", remedy="--format json")
    with share_progress("searching") as on_progress:
        counts = count(space, on_progress)
    console.data(_render_counts(counts, output), out)


def _render_counts(found: SpaceCounts, output: Format) -> str:
    counts: dict[str, Any] = asdict(found)
    if output is Format.table:
        return table([{"count": name, "value": f"{value:,}"} for name, value in counts.items()], "plain")
    if output is Format.yaml:
        return "\n".join(f"{name}: {value}" for name, value in counts.items())
    if output in (Format.csv, Format.markdown):
        return render([counts], [counts], output)
    return json.dumps(counts)
