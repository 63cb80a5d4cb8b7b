"""Live progress of a study on stderr: bars on a terminal, one line per finished run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.progress import MofNCompleteColumn, TaskID

from einsearch_cli.cli.bars import LiveBars
from einsearch_cli.reports.numbers import duration_text
from einsearch_cli.search.estimate import StudyEstimate
from einsearch_cli.search.study import RungStarted, StudyEvent
from einsearch_cli.search.worker import Finished
from einsearch_cli.structures import RoutingStatistics, short_name
from einsearch_cli.training.proxy.trial import Trial, TrialResult


class StudyProgress(LiveBars):
    """Shows candidates, rung, losses and the time left; give it every event of the study."""

    def __init__(self, console: Console, estimate: StudyEstimate, workers: int) -> None:
        super().__init__(console, MofNCompleteColumn(), transient=False)
        self._clock = _Clock(estimate, workers)
        self._rung: TaskID | None = None
        self._running: dict[int, TaskID] = {}
        self._best: TrialResult | None = None

    def __call__(self, event: StudyEvent) -> None:
        if isinstance(event, RungStarted):
            self._start_rung(event)
            return
        if self._clock.begin() and self._rung is not None:
            self._bars.update(self._rung, note=self._clock.eta())
        if isinstance(event, Finished):
            self._finish(event)
        else:
            bar = self._running.get(event.number)
            if bar is None:
                bar = self._running[event.number] = self._bars.add_task(f"  {describe(event.trial)}", note="")
            note = f"training loss {event.loss:.4g}{load_note(event.routing)}"
            self._bars.update(bar, completed=event.step, total=event.steps, note=note)

    def _start_rung(self, event: RungStarted) -> None:
        self._best = None
        stage = "without balance loss" if event.is_ablation else f"rung {event.rung + 1}/{event.rungs}"
        text = f"{stage}: {len(event.structures)} candidates, {event.budget_flops:.2g} FLOPs a run"
        if event.finished:
            self._say(f"{stage}: {event.finished} of {event.trials} runs were finished before")
        self._clock.start_rung(event)
        if self._rung is not None:
            self._bars.remove_task(self._rung)
        self._rung = self._bars.add_task(text, total=event.trials, completed=event.finished, note=self._clock.eta())
        if not self._console.is_terminal:
            self._say(text)

    def _finish(self, event: Finished) -> None:
        result = event.result
        if (bar := self._running.pop(event.number, None)) is not None:
            self._bars.remove_task(bar)
        self._clock.finish(result)
        if result.loss is not None and (self._best is None or result.loss < (self._best.loss or 0.0)):
            self._best = result
        best = f"best {self._best.loss:.4g} {short_name(self._best.trial.structure)}   " if self._best else ""
        if self._rung is not None:
            self._bars.update(self._rung, advance=1, note=best + self._clock.eta())
        outcome = f"loss {result.loss:.5g}" if result.loss is not None else f"{result.status}: {result.error}"
        if result.loss is None or not self._console.is_terminal:
            outcome += load_note(result.routing)
            self._say(f"  {describe(result.trial)}  {outcome}  {result.elapsed_s:.1f} s  {self._clock.eta()}")


class _Clock:
    """Time left: the estimate for what is still to do, scaled by how fast it has gone so far."""

    def __init__(self, estimate: StudyEstimate, workers: int) -> None:
        self._estimate = estimate
        self._workers = workers
        self._started_s: float | None = None
        """When the first worker gave a sign of life."""
        self._done_s = 0.0
        self._rung_left = 0
        self._rung = 0

    def begin(self) -> bool:
        """Workers are there; False if this was known before."""
        if self._started_s is not None:
            return False
        self._started_s = time.perf_counter()
        return True

    def start_rung(self, event: RungStarted) -> None:
        self._rung, self._rung_left = event.rung, event.trials - event.finished

    def finish(self, result: TrialResult) -> None:
        self._rung_left -= 1
        self._done_s += self._per_run(result.trial.rung)

    def _per_run(self, rung: int) -> float:
        planned = self._estimate.rungs[rung]
        return planned.seconds / max(1, planned.runs)

    def eta(self) -> str:
        later = sum(rung.seconds for rung in self._estimate.rungs[self._rung + 1 :])
        left = self._rung_left * self._per_run(self._rung) + later
        if self._started_s is None:
            number = f"{self._workers} worker{'s' * (self._workers != 1)}"
            return f"starting {number}, about {duration_text(left + self._estimate.start_up_s)} left"
        if self._done_s > 0:
            left *= (time.perf_counter() - self._started_s) / self._done_s
        return f"about {duration_text(left)} left"


def describe(trial: Trial) -> str:
    """One trial in a line."""
    return f"{short_name(trial.structure)}, width {trial.width}, seed {trial.seed}"


def load_note(routing: Sequence[RoutingStatistics]) -> str:
    """The least used expert of all layers, its share times the number of experts, and mean entropies; or nothing.

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
