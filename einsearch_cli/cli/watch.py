"""`einsearch watch`: follow a study that runs elsewhere until it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from einsearch_cli.cli import console
from einsearch_cli.cli.status import STUDY_FOLDER, status_lines
from einsearch_cli.errors import Exit

if TYPE_CHECKING:
    from rich.console import Group

    from einsearch_cli.search.status import StudyStatus

HELP = """Follow a study that runs elsewhere until it ends.

RUN is the folder of a study, the --out of `einsearch rank`. It is only read:
Ctrl-C ends the watching and leaves the study alone. On a terminal the picture is
renewed every second; elsewhere a line is printed whenever runs have ended. For
programs, RUN/events.jsonl has a line of JSON for every event.

Example:

  einsearch watch runs/demo
"""

_INTERVAL_S = 1.0
_LEAST_LINE_S = 10.0
"""Seconds between two lines at least, if they go to a file or a pipe."""
_SHARE_WIDTH = 40


def watch_command(run: Path = STUDY_FOLDER) -> int:
    from einsearch_cli.search.status import read_status

    status = read_status(run)
    try:
        status = _follow_live(run, status) if console.width() is not None else _follow_by_lines(run, status)
    except KeyboardInterrupt:
        console.talk(f"watching has ended; the study goes on: einsearch watch {run}")
        return Exit.INTERRUPTED
    console.data(console.wrapped("\n".join(status_lines(status)), console.width()))
    return Exit.OK


def _follow_live(folder: Path, status: StudyStatus) -> StudyStatus:
    """Redraw the status until the study ends; returns the last one."""
    from rich.console import Console
    from rich.live import Live

    from einsearch_cli.search.status import read_status

    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        while not status.has_ended:
            live.update(_picture(status), refresh=True)
            time.sleep(_INTERVAL_S)
            status = read_status(folder)
    return status


def _picture(status: StudyStatus) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    first, *rest = (Text(console.printable(line)) for line in status_lines(status))
    total = max(status.runs.expected or 1, status.runs.ended, 1)
    share = ProgressBar(total=total, completed=status.runs.ended, width=_SHARE_WIDTH)
    return Group(first, share, Text(), *rest)  # a bar does not end its line, an empty text does


def _follow_by_lines(folder: Path, status: StudyStatus) -> StudyStatus:
    """Print lines when runs or stages have ended, with pauses; returns the last status."""
    from einsearch_cli.search.status import read_status

    said, at_s = -1, float("-inf")
    while not status.has_ended:
        if status.runs.ended != said and time.monotonic() - at_s >= _LEAST_LINE_S:
            said, at_s = status.runs.ended, time.monotonic()
            console.stream("; ".join(status_lines(status)[:3]) + "\n")
        time.sleep(_INTERVAL_S)
        status = read_status(folder)
    return status
