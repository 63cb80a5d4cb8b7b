"""`einsearch sample`: structures drawn from the continuous space."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import typer

from einsearch_cli.cli import console, filters
from einsearch_cli.cli.filters import bounds_of, known_family, ranges_of
from einsearch_cli.cli.listing import Listed, ListFormat, Place, refuse_parquet_without_file, write_list

HELP = """Draw structures of N factors from the continuous space, uniform on the simplices of exponents.

Input and output exponents are uniform on their simplices, bonds on [0, 1];
exponents are exact multiples of 1/720720. Filters are those of enumerate; a
random structure shares parameters (ω > 0), so ask for --max-omega 0 with the
index classes that have to be empty.

[bold]Examples[/bold]

  einsearch sample --factors 3 -n 10 --seed 0

  einsearch sample --factors 2 -n 10 --fix XB=0 --fix YA=0 --max-omega 0 --min-psi 1
"""


def sample_command(
    factors: int = typer.Option(2, "--factors", "-N", min=1, max=5, help="Number of factors."),
    number: int = typer.Option(10, "--number", "-n", min=1, max=1_000_000, help="How many structures."),
    seed: int = typer.Option(0, min=0, help="The same seed draws the same structures."),
    allow_block_diagonal: bool = typer.Option(
        False, "--allow-block-diagonal", help="Also indices that both X and Y carry."
    ),
    fix: list[str] = filters.FIX,
    min_psi: str = filters.MIN_PSI,
    max_omega: str = filters.MAX_OMEGA,
    max_nu: str = filters.MAX_NU,
    family: str | None = filters.FAMILY,
    pareto: bool = filters.PARETO,
    output: ListFormat = typer.Option(ListFormat.table, "--format", help="Output format."),
    out: Path | None = typer.Option(None, help="Write to this file; `einsearch rank` reads it."),
) -> None:
    from einsearch_cli.structures.index_classes import IndexClasses
    from einsearch_cli.taxonomy.sample import UNIT, SampleSpace, sample

    refuse_parquet_without_file(output, out)
    bounds = bounds_of(min_psi, max_omega, max_nu, UNIT)
    ranges = ranges_of(fix, IndexClasses(factors, allow_block_diagonal), UNIT)
    space = SampleSpace(factors, bounds, known_family(family), ranges, allow_block_diagonal, pareto)
    found = sample(space, number, seed)
    written = write_list(
        (
            Listed(drawn.structure, str(drawn.structure), Place.of(*(Fraction(n, UNIT) for n in drawn.place)))
            for drawn in found
        ),
        output,
        out,
    )
    console.talk(f"{written:,} structures")
