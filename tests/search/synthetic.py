"""An engine that trains nothing: losses come from a law of rate, width, compute and seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.job import Pack, Report, TrialFinished, TrialSetup
from einsearch_cli.search.outcome import StudyOutcome
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.stages import StageStarted, StudyEvent
from einsearch_cli.search.store import StudyStore
from einsearch_cli.search.study import run_study
from einsearch_cli.structures import LayerSpec
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result


@dataclass(frozen=True)
class Law:
    """Loss A (g C)^-a, raised by parabolas in log rate and log width; w_opt grows as C^growth."""

    gain: float = 1.0
    rate: float = 1.0
    """Best rate in multiples of the base rate."""
    width: float = 64.0
    """Best width at 1e9 FLOPs."""
    growth: float = 1 / 3
    exponent: float = 0.25
    curvature: float = 0.3
    """Curvature of log loss over log width."""
    rate_curvature: float = 0.05
    rate_drift: float = 0.0
    """Exponent of compute in the best rate."""
    diverges_from: float = math.inf
    """Rates from this one on diverge."""
    noise: float = 0.0

    def best_width(self, budget: float) -> float:
        return float(self.width * (budget / 1e9) ** self.growth)

    def best_rate(self, budget: float) -> float:
        return float(self.rate * (budget / 1e9) ** self.rate_drift)

    def log_loss(self, trial: Trial) -> float:
        wide = math.log(trial.width / self.best_width(trial.budget_flops))
        fast = math.log(trial.rate / self.best_rate(trial.budget_flops))
        noise = random.Random(trial.key).gauss(0, self.noise) if self.noise else 0.0
        law = -self.exponent * math.log(self.gain * trial.budget_flops / 1e9)
        return law + self.curvature * wide**2 + self.rate_curvature * fast**2 + noise

    def result(self, trial: Trial) -> TrialResult:
        if trial.rate >= self.diverges_from:
            return failed_result(trial, "diverged", "loss became NaN", 0.1)
        budget = trial.budget_flops
        return TrialResult(trial, "ok", math.exp(self.log_loss(trial)), 1, budget, 1.2 * budget, 10, 0.1, ())


class Interrupted(Exception):
    """The exception with which a test stops a study."""


@dataclass
class Synthetic(Engine):
    """Answers every trial by the law of its structure; `ran` lists the trials."""

    laws: Callable[[LayerSpec], Law]
    stop_after: float = math.inf
    ran: list[Trial] = field(default_factory=list)
    name = "synthetic"

    def __post_init__(self) -> None:
        super().__init__(TrialSetup("teacher"))

    def stop(self) -> None:
        """Nothing runs."""

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        while pack := next_pack():
            for job in pack:
                if len(self.ran) >= self.stop_after:
                    raise Interrupted  # raised with unfinished jobs
                self.ran.append(job.trial)
                on_event(TrialFinished(job.number, self.laws(job.trial.structure).result(job.trial)))


@dataclass
class Course:
    """The course of a study."""

    ran: list[Trial]
    outcome: StudyOutcome
    stages: list[StageStarted]

    def count(self, stage: str, rung: int | None = None) -> int:
        """Trials of a stage."""
        ends: dict[tuple[str, int], int] = {}
        for event in self.stages:
            ends[event.stage, event.rung] = event.trials
        return sum(number for (name, at), number in ends.items() if name == stage and rung in (None, at))


class MemoryStore:
    """The parts of the store that a study needs, without a disk; it outlives several runs as a folder does."""

    folder = Path("no folder")

    def __init__(self) -> None:
        self._results: dict[str, TrialResult] = {}
        self._queue: list[Trial] = []
        self._notes: dict[str, Any] = {}
        self.begun = 0

    def add(self, trials: Iterable[Trial]) -> None:
        known = {*self._results, *(trial.key for trial in self._queue)}
        self._queue += [trial for trial in trials if trial.key not in known]

    def waiting(self) -> int:
        return len(self._queue)

    def take(self) -> tuple[int, Trial] | None:
        if not self._queue:
            return None
        return len(self._results), self._queue.pop(0)

    def take_pack(self, most: int) -> list[tuple[int, Trial]]:
        taken = self.take() if most else None
        return [] if taken is None else [taken]

    def finish(self, number: int, result: TrialResult) -> None:
        assert number == len(self._results)
        self.begun += 1
        self._results[result.trial.key] = result

    def result_of(self, trial: Trial) -> TrialResult | None:
        found = self._results.get(trial.key)
        return None if found is None else replace(found, trial=trial)

    def results(self) -> list[TrialResult]:
        return sorted(self._results.values(), key=lambda result: result.trial.budget_flops)

    def noted(self, name: str) -> Any:
        return self._notes.get(name)

    def note(self, name: str, value: Any) -> None:
        self._notes[name] = value

    def interrupt(self) -> None:
        """A process that ends loses its queue."""
        self._queue = []


def run_synthetic(
    spec: StudySpec,
    laws: Callable[[LayerSpec], Law],
    *,
    networks: EqualNetworks | None = None,
    store: MemoryStore | StudyStore | None = None,
    stop_after: float = math.inf,
) -> Course:
    """Run a study whose losses follow the laws; by default, every structure is a separate network."""
    engine, stages = Synthetic(laws, stop_after), list[StageStarted]()
    task, kept = spec.open_task(), MemoryStore() if store is None else store

    def on_event(event: StudyEvent) -> None:
        if isinstance(event, StageStarted):
            stages.append(event)

    apart = EqualNetworks(lambda structure, _: structure)
    try:
        outcome = run_study(spec, spec.candidates(), task, networks or apart, kept, engine, on_event)  # type: ignore[arg-type]
    except Interrupted:
        assert isinstance(kept, MemoryStore)
        kept.interrupt()
        raise
    return Course(engine.ran, outcome, stages)
