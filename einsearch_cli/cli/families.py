"""`einsearch families`: the named structures."""

from __future__ import annotations

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.formats import Format, render

HELP = """List the named families with their carrier sets and parameters.

[bold]Example[/bold]

  einsearch families
"""


def families_command(output: Format = typer.Option(Format.table, "--format", help="Output format.")) -> None:
    from einsearch_cli.structures import FAMILIES
    from einsearch_cli.structures.families import usage

    rows = [
        {"structure": usage(family), "family": family.name, "carrier sets": family.carriers, "source": family.source}
        for family in FAMILIES.values()
    ]
    console.data(render(rows, rows, output))
