"""Progress shown live on stderr: bars on a terminal, single lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Final, Self

from einsearch_cli.cli.console import is_verbose, printable, talk, talk_console, timed
from einsearch_cli.search.study_clock import StudyClock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.job import TrialFinished, TrialTriedAgain
    from einsearch_cli.search.stages import StageStarted, StudyEvent
    from einsearch_cli.speed import Case, CaseEstimate
    from einsearch_cli.structures import RoutingStatistics
    from einsearch_cli.training.full import StepMetrics
    from einsearch_cli.training.proxy.trial import Trial, TrialResult

_TRUST_S: Final = 10.0
"""Seconds of a benchmark after which its measured speed counts as much as the estimate."""


@contextmanager
def share_progress(what: str, wanted: bool = True) -> Iterator[Callable[[float], None]]:
    """Show progress, e.g. "searching"; yields a function to call with the share that is done."""
    terminal = talk_console()
    if not wanted or terminal.quiet or not terminal.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda done: bars.update(task, completed=done)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show an activity, e.g. "preparing the text task": with spinner and time on a terminal, once elsewhere."""
    terminal = talk_console()
    if terminal.quiet or is_verbose() or not terminal.is_terminal:
        talk(f"{what} …")
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True, redirect_stdout=False) as bars:
        bars.add_task(what, total=None)
        yield


class LiveBars:
    """A context manager; bars with a note are drawn within it, if the console is a terminal.

    Args:
        console: where to draw.
        transient: whether the bars vanish at the end.
        as_share: whether a bar says what share is done, not how many of how many.
    """

    def __init__(self, console: Console, *, transient: bool, as_share: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn() if as_share else MofNCompleteColumn(),
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

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @property
    def _in_lines(self) -> bool:
        """Whether each finished part gets a line, as in a file."""
        return is_verbose() or not self._console.is_terminal

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(printable(timed(line)), markup=False, highlight=False, soft_wrap=True)


def _left_text(seconds: float) -> str:
    from einsearch_cli.reports.numbers import duration_text

    return f"about {duration_text(seconds)} left"


class StudyProgress(LiveBars):
    """Shows candidates, stage, losses and the time left; give it every event of the study."""

    def __init__(self, console: Console, estimate: StudyEstimate, workers: int) -> None:
        super().__init__(console, transient=False)
        self._clock = StudyClock(estimate)
        self._workers = workers
        self._rung: TaskID | None = None
        self._running: dict[int, TaskID] = {}
        self._best: TrialResult | None = None

    def __call__(self, event: StudyEvent) -> None:
        from einsearch_cli.search.job import TrialFinished, TrialNote, TrialStarted, TrialTriedAgain
        from einsearch_cli.search.stages import StageStarted

        if isinstance(event, TrialStarted):  # workers may still load torch
            return
        if isinstance(event, StageStarted):
            self._start_stage(event)
            return
        if isinstance(event, TrialNote):
            self.say(f"  {describe(event.trial)}  {event.text}")
            return
        if self._clock.begin() and self._rung is not None:
            self._bars.update(self._rung, note=self._eta())
        if isinstance(event, TrialFinished):
            self._finish(event)
        elif isinstance(event, TrialTriedAgain):
            self._try_again(event)
        else:
            bar = self._running.get(event.number)
            if bar is None:
                bar = self._running[event.number] = self._bars.add_task(f"  {describe(event.trial)}", note="")
            note = f"training loss {event.loss:.4g}{load_note(event.routing)}"
            self._bars.update(bar, completed=event.step, total=event.steps, note=note)

    def _start_stage(self, event: StageStarted) -> None:
        goes_on = self._clock.start_stage(event)
        if goes_on and self._rung is not None:
            self._bars.update(self._rung, total=event.trials)
            return
        self._best = None
        stage = f"rung {event.rung + 1}/{event.rungs}, {event.stage}"
        text = f"{stage}: {len(event.structures)} candidates, {event.budget_flops:.2g} FLOPs a run"
        if event.finished:
            self.say(f"{stage}: {event.finished} of {event.trials} runs are there already")
        if self._rung is not None:
            self._bars.remove_task(self._rung)
        self._rung = self._bars.add_task(text, total=event.trials, completed=event.finished, note=self._eta())
        if self._in_lines:
            self.say(text)

    def _eta(self) -> str:
        left = _left_text(self._clock.left_s())
        if self._clock.has_begun:
            return left
        return f"starting {self._workers} worker{'s' * (self._workers != 1)}, {left}"

    def _try_again(self, event: TrialTriedAgain) -> None:
        from einsearch_cli.search.running import MOST_DEATHS

        self._remove_bar(event.number)
        self.say(f"  {describe(event.trial)}  {event.reason}; tried again ({event.deaths} of {MOST_DEATHS - 1})")

    def _remove_bar(self, number: int) -> None:
        if (bar := self._running.pop(number, None)) is not None:
            self._bars.remove_task(bar)

    def _finish(self, event: TrialFinished) -> None:
        from einsearch_cli.structures import short_name

        result = event.result
        self._remove_bar(event.number)
        self._clock.finish()
        if result.loss is not None and (self._best is None or result.loss < (self._best.loss or 0.0)):
            self._best = result
        best = f"best {self._best.loss:.4g} {short_name(self._best.trial.structure)}   " if self._best else ""
        if self._rung is not None:
            self._bars.update(self._rung, advance=1, note=best + self._eta())
        outcome = f"loss {result.loss:.5g}" if result.loss is not None else f"{result.status}: {result.error}"
        if result.loss is None or self._in_lines:
            outcome += load_note(result.routing)
            self.say(f"  {describe(result.trial)}  {outcome}  {result.elapsed_s:.1f} s  {self._eta()}")
        if event.log is not None:
            for line in last_lines(event.output):
                self.say(f"    | {line}")
            self.say(f"    all that was printed: {event.log}")


def describe(trial: Trial) -> str:
    """A trial described in one line."""
    from einsearch_cli.structures import short_name

    rate = "" if trial.rate == 1 else f", rate x {trial.rate:g}"
    return f"{short_name(trial.structure)}, width {trial.width}, seed {trial.seed}{rate}"


def last_lines(text: str, most: int = 5, length: int = 200) -> list[str]:
    """The last lines of what was printed, each cut to this length.

    >>> last_lines("one\\ntwo\\n\\nthree\\n", most=2)
    ['two', 'three']
    """
    lines = [line.rstrip() for line in text[-most * 10_000 :].splitlines() if line.strip()]
    return [line[:length] for line in lines[-most:]]


def load_note(routing: Sequence[RoutingStatistics]) -> str:
    """The least used expert of all layers, its share times the number of experts, and mean entropies; or nothing.

    >>> from einsearch_cli.structures import RoutingStatistics
    >>> layer = RoutingStatistics("blocks.0.up", (0.7, 0.3), token_entropy=0.5, aggregate_entropy=0.6, dropped=0)
    >>> load_note([layer])
    '  least load 0.60 in blocks.0.up  entropy 0.50 of 0.60  0 dropped'
    """
    if not routing:
        return ""
    least = min(routing, key=lambda layer: layer.smallest_load)
    of_token = fmean(layer.token_entropy for layer in routing)
    of_mean = fmean(layer.aggregate_entropy for layer in routing)
    return (
        f"  least load {least.smallest_load:.2f} in {least.layer}  "
        f"entropy {of_token:.2f} of {of_mean:.2f}  {sum(layer.dropped for layer in routing)} dropped"
    )


class TrainProgress(LiveBars):
    """Shows step, loss, held-out loss, speed and the time left of one run."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console, transient=False)
        self._name = name
        self._bar = self._bars.add_task(name, total=None, note="")
        self._held_out = ""
        self._first: tuple[int, float] | None = None

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """Show the progress after a step."""
        now_s = time.perf_counter()
        first = self._first = self._first or (metrics.step, now_s)
        left = "" if metrics.step == first[0] else self._left(metrics.step, steps, first, now_s)
        if metrics.validation_loss is not None:
            self._held_out = f"   held-out {metrics.validation_loss:.4f}"
            if metrics.smallest_load is not None:
                self._held_out += f"   least load {metrics.smallest_load:.2f}"
        note = f"loss {metrics.loss:.4f}{self._held_out}   {metrics.tokens_per_s:,.0f} tokens/s{left}"
        self._bars.update(self._bar, completed=metrics.step, total=steps, note=note)
        if self._in_lines and metrics.validation_loss is not None:
            self.say(f"{self._name}: step {metrics.step:,} of {steps:,}   {note}")

    @staticmethod
    def _left(step: int, steps: int, first: tuple[int, float], now_s: float) -> str:
        """Time left by the wall clock: validation and saving count; the first step, which warms up, does not."""
        per_step_s = (now_s - first[1]) / (step - first[0])
        return f"   {_left_text((steps - step) * per_step_s)}"


class BenchProgress(LiveBars):
    """Shows the case that runs and the time left: the estimate, scaled by how fast it has gone so far."""

    def __init__(self, console: Console, estimate: Mapping[Case, CaseEstimate]) -> None:
        super().__init__(console, transient=True, as_share=True)
        self._estimate = estimate
        self._order = list(estimate)
        self._total_s = sum(case.total_s for case in estimate.values())
        self._started_s = time.perf_counter()
        self._shown: Case | None = None
        self._bar = self._bars.add_task("starting", total=self._total_s, note="")

    def __call__(self, case: Case, rounds: int | None) -> None:
        """`rounds` rounds of this case are finished; None when it begins."""
        from einsearch_cli.reports.speed_table import case_title

        place = self._order.index(case)
        done_s = sum(self._estimate[earlier].total_s for earlier in self._order[:place])
        done_s += self._estimate[case].done_s(rounds)
        now = f"{case_title(case)}, {place + 1} of {len(self._order)}"
        if case != self._shown and self._in_lines:
            self.say(f"{now}  {self._left(done_s)}")
        self._shown = case
        stage = "warming up" if rounds is None else f"round {rounds}"
        note = f"{stage}  {self._left(done_s)}"
        self._bars.update(self._bar, description=now, completed=done_s, note=note)

    def _left(self, done_s: float) -> str:
        elapsed_s = time.perf_counter() - self._started_s
        left_s = (self._total_s - done_s) * (elapsed_s + _TRUST_S) / (done_s + _TRUST_S)
        return _left_text(left_s)
