"""Stages of trials: missing results are computed, with one run for equal networks, and every trial gets its result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from einsearch_cli.scaling import is_finished
from einsearch_cli.search.bracket import next_points
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.plan import StudyStage
from einsearch_cli.search.running import RunEvent, run_waiting
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import LayerSpec, parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult

_ANY: Final = parse_structure("dense")


@dataclass(frozen=True, slots=True)
class StageStarted:
    """Trials of a stage are about to run: the number of its trials so far, and how many of these are finished."""

    stage: StudyStage
    rung: int
    rungs: int
    budget_flops: float
    structures: tuple[LayerSpec, ...]
    trials: int
    finished: int


StudyEvent = StageStarted | RunEvent


@dataclass
class Stages:
    """Runs the stages of one study."""

    networks: EqualNetworks
    store: StudyStore
    engine: Engine
    on_event: Callable[[StudyEvent], None]
    budgets: Sequence[float]
    results: dict[Trial, TrialResult] = field(default_factory=dict)
    _sources: dict[Hashable, Trial] = field(default_factory=dict)
    _stage_trials: int = 0

    def search(
        self,
        stage: StudyStage,
        rung: int,
        starts: Mapping[LayerSpec, list[int]],
        trials_of: Callable[[LayerSpec, int], list[Trial]],
        neighbour: Callable[[LayerSpec, int, int], int | None],
        *,
        leaps: bool = False,
    ) -> dict[LayerSpec, dict[int, float]]:
        """Measure points of every structure until its lowest has neighbours; returns mean log losses by point."""
        wanted = {structure: points for structure, points in starts.items() if points}
        values: dict[LayerSpec, dict[int, float]] = {structure: {} for structure in wanted}
        goes_on = False
        while wanted:
            trials = {(s, p): trials_of(s, p) for s, points in wanted.items() for p in points}
            self.run(stage, rung, [trial for group in trials.values() for trial in group], goes_on=goes_on)
            for (structure, point), group in trials.items():
                values[structure][point] = statistics.fmean(log_loss(self.results[trial]) for trial in group)
            more = {
                s: next_points(found, lambda p, step, s=s: neighbour(s, p, step), leaps=leaps)  # type: ignore[misc]
                for s, found in values.items()
            }
            wanted = {structure: points for structure, points in more.items() if points}
            goes_on = True
        return values

    def run(self, stage: StudyStage, rung: int, trials: Sequence[Trial], *, goes_on: bool = False) -> None:
        """Run the trials that have no result yet; equal networks run once. `goes_on` continues the stage before."""
        if not trials:
            return
        pairs = [(trial, self._source(trial)) for trial in trials]
        own = list(dict.fromkeys(source for _, source in pairs))
        self.store.add(sorted(own, key=lambda trial: (trial.seed, trial.width)))  # narrow ones take longest
        self._stage_trials = len(own) + (self._stage_trials if goes_on else 0)
        self.on_event(
            StageStarted(
                stage=stage,
                rung=rung,
                rungs=len(self.budgets),
                budget_flops=self.budgets[rung],
                structures=tuple(dict.fromkeys(trial.structure for trial in trials)),
                trials=self._stage_trials,
                finished=self._stage_trials - self.store.waiting(),
            )
        )
        run_waiting(self.store, self.engine, self.on_event)
        for trial, source in pairs:
            result = self.store.result_of(source)
            assert result is not None
            copied = None if source.structure == trial.structure else source.structure
            self.results[trial] = replace(result, trial=trial, trained_as=copied)

    def _source(self, trial: Trial) -> Trial:
        """The trial whose run stands for this one: the study's first trial of the same network."""
        key = self.networks.key(trial.structure, trial.width)
        return self._sources.setdefault((key, replace(trial, structure=_ANY, stage="main")), trial)


def log_loss(result: TrialResult) -> float:
    """Logarithm of a run's loss, infinite if it has none."""
    return math.log(result.loss) if is_finished(result) and result.loss is not None else math.inf
