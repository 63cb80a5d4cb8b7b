"""`einsearch enumerate`: all structures of a space."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.formats import Format, render, table

HELP = """List all structures of two factors on a grid of exponents, in normal form, best first.

The space is that of Potapczynski et al. 2024, each structure once.

[bold]Examples[/bold]

  einsearch enumerate --grid 4 --min-psi 1 --max-omega 0 --max-nu 1/2

  einsearch enumerate --grid 4 --count

  einsearch enumerate --grid 4 --family btt --format yaml --out btt.yaml
  einsearch rank btt.yaml
"""


def enumerate_command(
    grid: int = typer.Option(4, "--grid", "-q", min=1, help="Exponents are multiples of 1/GRID."),
    factors: int = typer.Option(2, min=1, max=2, help="Largest number of factors."),
    min_psi: str = typer.Option("0", help="Smallest rank exponent ψ, such as 1 or 1/2."),
    max_omega: str = typer.Option("inf", help="Largest parameter sharing ω."),
    max_nu: str = typer.Option("inf", help="Largest compute exponent ν (dense: 1)."),
    family: str | None = typer.Option(None, help="Only this family; see `einsearch families`."),
    limit: int | None = typer.Option(None, min=1, help="Stop after this many."),
    count: bool = typer.Option(False, "--count", help="Only say how many there are."),
    output: Format = typer.Option(Format.table, "--format", help="Output format."),
    out: Path | None = typer.Option(None, help="Write to this file; `einsearch rank` reads it."),
) -> None:
    from einsearch_cli.taxonomy import Space, classify, survivors
    from einsearch_cli.taxonomy import count as count_space

    space = Space(grid, factors, _bounds(min_psi, max_omega, max_nu), _known_family(family))
    if count:
        counts = asdict(count_space(space))
        console.data(_render_counts(counts, output), out)
        return
    found = [classify(structure) for structure in survivors(space)[:limit]]
    rows = [_row(item.to_json(), str(item.structure)) for item in found]
    console.data(render(rows, [{"text": str(item.structure), **item.to_json()} for item in found], output), out)
    console.talk(f"{len(found)} structures")


def _bounds(min_psi: str, max_omega: str, max_nu: str) -> Any:
    from einsearch_cli.structures.extent import parse_rational
    from einsearch_cli.taxonomy import EVERYTHING, Bounds

    return Bounds(
        min_psi=parse_rational(min_psi, "--min-psi"),
        max_omega=EVERYTHING.max_omega if max_omega == "inf" else parse_rational(max_omega, "--max-omega"),
        max_nu=EVERYTHING.max_nu if max_nu == "inf" else parse_rational(max_nu, "--max-nu"),
    )


def _known_family(name: str | None) -> str | None:
    from einsearch_cli.structures.families import find_family

    return name if name in (None, "generic") else find_family(name).name


def _row(item: dict[str, Any], text: str) -> dict[str, str]:
    return {
        "structure": text,
        "family": item["family"],
        "ω": item["omega"],
        "ψ": item["psi"],
        "ν": item["nu"],
        "kept": "yes" if item["kept"] else "no",
    }


def _render_counts(counts: dict[str, Any], output: Format) -> str:
    if output is Format.table:
        return table([{"count": name, "value": f"{value:,}"} for name, value in counts.items()], "plain")
    if output in (Format.json, Format.jsonl):
        import json

        return json.dumps(counts)
    if output is Format.yaml:
        return "\n".join(f"{name}: {value}" for name, value in counts.items())
    return render([counts], [counts], output)
