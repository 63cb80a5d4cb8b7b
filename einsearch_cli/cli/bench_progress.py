"""Live progress of a benchmark on stderr: a bar on a terminal, one line per case elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from einsearch_cli.reports.numbers import duration_text
from einsearch_cli.reports.speed_table import case_title
from einsearch_cli.speed import Case

_TRUST_S = 10.0
"""The estimate counts as much as the speed of the first so many seconds."""


class BenchProgress:
    """Shows the case that runs and the time left: the estimate, scaled by how fast it has gone so far."""

    def __init__(self, console: Console, estimate_s: Mapping[Case, float]) -> None:
        self._console = console
        self._estimate_s = estimate_s
        self._order = list(estimate_s)
        self._started_s = time.perf_counter()
        self._shown: Case | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            redirect_stdout=False,
        )
        self._bar = self._bars.add_task("warming up", total=sum(estimate_s.values()), note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, case: Case, rounds: int) -> None:
        """A round of this case is finished."""
        before_s = sum(self._estimate_s[earlier] for earlier in self._order[: self._order.index(case)])
        now = f"{case_title(case)}, {self._order.index(case) + 1} of {len(self._order)}"
        if case != self._shown and not self._console.is_terminal:
            self._console.print(f"{now}  {self._left(before_s)}", markup=False, highlight=False, soft_wrap=True)
        self._shown = case
        note = f"round {rounds}  {self._left(before_s)}"
        self._bars.update(self._bar, description=now, completed=before_s, note=note)

    def _left(self, done_s: float) -> str:
        left_s = sum(self._estimate_s.values()) - done_s
        left_s *= (time.perf_counter() - self._started_s + _TRUST_S) / (done_s + _TRUST_S)
        return f"about {duration_text(left_s)} left"
