"""Bars with a note on a terminal, single lines elsewhere: what live progress on stderr is made of."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from einsearch_cli.cli.console import printable


class LiveBars:
    """A context manager; bars are drawn within it, if the console is a terminal.

    Args:
        console: where to draw.
        count: the column that says how much is done.
        transient: whether the bars vanish at the end.
    """

    def __init__(self, console: Console, count: ProgressColumn, *, transient: bool) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            count,
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=console.quiet or not console.is_terminal,
            transient=transient,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
