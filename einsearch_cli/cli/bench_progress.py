"""Live progress of a benchmark on stderr: a bar on a terminal, one line per case elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import TaskProgressColumn

from einsearch_cli.cli.bars import LiveBars
from einsearch_cli.reports.numbers import duration_text
from einsearch_cli.reports.speed_table import case_title
from einsearch_cli.speed import Case, CaseEstimate

_TRUST_S = 10.0
"""The estimate counts as much as the speed of the first so many seconds."""


class BenchProgress(LiveBars):
    """Shows the case that runs and the time left: the estimate, scaled by how fast it has gone so far."""

    def __init__(self, console: Console, estimate: Mapping[Case, CaseEstimate]) -> None:
        super().__init__(console, TaskProgressColumn(), transient=True)
        self._estimate = estimate
        self._order = list(estimate)
        self._total_s = sum(case.total_s for case in estimate.values())
        self._started_s = time.perf_counter()
        self._shown: Case | None = None
        self._bar = self._bars.add_task("starting", total=self._total_s, note="")

    def __call__(self, case: Case, rounds: int | None) -> None:
        """So many rounds of this case are finished; None when it begins."""
        place = self._order.index(case)
        done_s = sum(self._estimate[earlier].total_s for earlier in self._order[:place])
        done_s += self._estimate[case].done_s(rounds)
        now = f"{case_title(case)}, {place + 1} of {len(self._order)}"
        if case != self._shown and not self._console.is_terminal:
            self._say(f"{now}  {self._left(done_s)}")
        self._shown = case
        stage = "warming up" if rounds is None else f"round {rounds}"
        note = f"{stage}  {self._left(done_s)}"
        self._bars.update(self._bar, description=now, completed=done_s, note=note)

    def _left(self, done_s: float) -> str:
        elapsed_s = time.perf_counter() - self._started_s
        left_s = (self._total_s - done_s) * (elapsed_s + _TRUST_S) / (done_s + _TRUST_S)
        return f"about {duration_text(left_s)} left"
