"""Progress of a training run on stderr: a bar on a terminal, a line per validation elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import MofNCompleteColumn

from einsearch_cli.cli.bars import LiveBars
from einsearch_cli.reports.numbers import duration_text

if TYPE_CHECKING:
    from einsearch_cli.training.full import StepMetrics


class TrainProgress(LiveBars):
    """Shows step, loss, held-out loss, speed and the time left of one run."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console, MofNCompleteColumn(), transient=False)
        self._name = name
        self._bar = self._bars.add_task(name, total=None, note="")
        self._held_out = ""
        self._first: tuple[int, float] | None = None

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """After every step."""
        now_s = time.perf_counter()
        first = self._first = self._first or (metrics.step, now_s)
        left = "" if metrics.step == first[0] else self._left(metrics.step, steps, first, now_s)
        if metrics.validation_loss is not None:
            self._held_out = f"   held-out {metrics.validation_loss:.4f}"
            if metrics.smallest_load is not None:
                self._held_out += f"   least load {metrics.smallest_load:.2f}"
        note = f"loss {metrics.loss:.4f}{self._held_out}   {metrics.tokens_per_s:,.0f} tokens/s{left}"
        self._bars.update(self._bar, completed=metrics.step, total=steps, note=note)
        if not self._console.is_terminal and metrics.validation_loss is not None:
            self.say(f"{self._name}: step {metrics.step:,} of {steps:,}   {note}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        self._say(text)

    @staticmethod
    def _left(step: int, steps: int, first: tuple[int, float], now_s: float) -> str:
        """From the wall clock, so validation and saving count; the first step, which warms up, does not."""
        per_step_s = (now_s - first[1]) / (step - first[0])
        return f"   about {duration_text((steps - step) * per_step_s)} left"
