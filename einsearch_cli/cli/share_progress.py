"""What is shown on stderr while something goes on: the share that is done, or that it is not over yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from einsearch_cli.cli import console


@contextmanager
def share_progress(what: str, wanted: bool = True) -> Iterator[Callable[[float], None]]:
    """Gives a function to call with the share that is done of what goes on, e.g. "searching"."""
    terminal = console.talk_console()
    if not wanted or not terminal.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda done: bars.update(task, completed=done)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what goes on, e.g. "preparing the text task": with a spinner and the time on a terminal, once elsewhere."""
    terminal = console.talk_console()
    if not terminal.is_terminal:
        console.talk(f"{what} …")
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True, redirect_stdout=False) as bars:
        bars.add_task(what, total=None)
        yield
