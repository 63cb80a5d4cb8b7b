"""`einsearch evidence`: keep what studies found, for `einsearch suggest`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import out_folder, path_parser
from einsearch_cli.cli.output import Format, format_option, render
from einsearch_cli.errors import Exit, SpecError

HELP = """Keep what studies found, for `einsearch suggest`, or list what is known.

`add` writes a small file for each RUN, a study of `einsearch rank` or `search`:
the gains of every structure with their intervals, the scale, and where they come
from. `list` shows all studies that `einsearch suggest` reads.

Examples:

  einsearch evidence add runs/demo

  einsearch evidence add runs/mine --name my-text --out evidence/

  einsearch evidence list
"""


class Action(StrEnum):
    """The action on evidence."""

    add = "add"
    list = "list"


def evidence_command(
    action: Action = typer.Argument(metavar="ACTION", help="What to do."),
    runs: list[Path] | None = typer.Argument(
        None, metavar="RUN", parser=path_parser("RUN"), help="Folders of studies, or their results.json."
    ),
    name: str | None = typer.Option(
        None, metavar="NAME", help="Name of the study of one RUN, and of its file.", show_default="that of the study"
    ),
    out: Path | None = out_folder(help="Folder of the files.", shown="the one that `einsearch suggest` reads"),
    output: Format = format_option(help="How the list is written."),
) -> int:
    from einsearch_cli.advice.evidence import add_evidence, known_evidence, user_folder

    if action is Action.add:
        if not runs or (name is not None and len(runs) > 1):
            raise SpecError(
                "evidence add needs a RUN" if not runs else f"--name is for one RUN, and there are {len(runs)}",
                remedy="einsearch evidence add runs/demo",
            )
        for path in add_evidence(runs, out or user_folder(), name):
            console.talk(f"evidence: {path}")
        return Exit.OK
    rows = [
        {
            "study": item.name,
            "task": item.task,
            "structures": len(item.findings),
            "FLOPs a run": f"{item.least_budget_flops:.2g} to {item.most_budget_flops:.2g}",
            "widths": f"{item.least_width} to {item.most_width}",
            "source": item.source,
        }
        for item in known_evidence(runs or ())
    ]
    console.data(render(rows, rows, output, least=("widths", "structures", "FLOPs a run")))
    return Exit.OK
