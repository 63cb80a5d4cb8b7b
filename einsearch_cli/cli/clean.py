"""`einsearch clean`: remove what finished runs of a study have left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.output import counted
from einsearch_cli.cli.status import STUDY_FOLDER
from einsearch_cli.errors import StudyError

HELP = """Remove checkpoints of finished runs from the folder of a study.

RUN is the folder of a study, the --out of `einsearch rank`. The study must not be
running. A study removes the checkpoints of a run when the run has a result. If
its process is killed at that moment, they stay, and this command removes them.
Checkpoints of runs without a result, results, logs and the database are kept.

Examples:

  einsearch clean runs/demo --dry-run

  einsearch clean runs/demo
"""


def clean_command(
    run: Path = STUDY_FOLDER,
    dry_run: bool = typer.Option(False, "--dry-run", metavar="", help="Say what would be removed, and remove nothing."),
) -> None:
    from einsearch_cli.search.run_folders import all_run_folders, left_behind, size_of
    from einsearch_cli.search.store import DATABASE, StudyStore

    if not (run / DATABASE).is_file():
        raise StudyError(
            f"{run} is not the folder of a study: it has no {DATABASE}", remedy="give the --out of a study"
        )
    with StudyStore(run, None) as store:
        doomed = left_behind(run, (result.trial for result in store.results() if result.status != "failed"))
        everything = all_run_folders(run)
        size = sum(map(size_of, doomed))
        if not dry_run:
            for folder in doomed:
                shutil.rmtree(folder)
    verb = "would remove" if dry_run else "removed"
    kept = len(everything) - len(doomed)
    console.data(
        f"{verb} the checkpoints of {counted(len(doomed), 'finished run')}, {size / 1e6:.1f} MB; "
        f"those of {counted(kept, 'run')} without a result stay"
    )
