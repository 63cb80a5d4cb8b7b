"""Progress of a training run on stderr: a bar on a terminal, a line per validation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from einsearch_cli.cli import console
from einsearch_cli.reports.numbers import duration_text

if TYPE_CHECKING:
    from einsearch_cli.training.full import StepMetrics


class TrainProgress:
    """Shows step, loss, held-out loss, speed and the time left of one run."""

    def __init__(self, name: str, wanted: bool = True) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        terminal = console.talk_console()
        self._name = name
        self._wanted = wanted
        self._shows_bar = wanted and terminal.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=terminal,
            disable=not self._shows_bar,
        )
        self._bar = self._bars.add_task(name, total=None, note="")
        self._held_out = ""
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """After every step."""
        now_s = time.perf_counter()
        first = self._first = self._first or (metrics.step, now_s)
        left = "" if metrics.step == first[0] else self._left(metrics.step, steps, first, now_s)
        if metrics.validation_loss is not None:
            self._held_out = f"   held-out {metrics.validation_loss:.4f}"
        note = f"loss {metrics.loss:.4f}{self._held_out}   {metrics.tokens_per_s:,.0f} tokens/s{left}"
        if self._shows_bar:
            self._bars.update(self._bar, completed=metrics.step, total=steps, note=note)
        elif self._wanted and metrics.validation_loss is not None:
            console.talk(f"{self._name}: step {metrics.step:,} of {steps:,}   {note}")

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        if self._shows_bar:
            self._bars.console.print(text, markup=False, highlight=False)
        elif self._wanted:
            console.talk(text)

    @staticmethod
    def _left(step: int, steps: int, first: tuple[int, float], now_s: float) -> str:
        """From the wall clock, so validation and saving count; the first step, which warms up, does not."""
        per_step_s = (now_s - first[1]) / (step - first[0])
        return f"   about {duration_text((steps - step) * per_step_s)} left"
