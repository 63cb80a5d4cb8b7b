"""A whole study: rung after rung of trials until the candidates are told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.halving import ablation_trials, places, promoted, rung_budgets, rung_trials
from einsearch_cli.search.job import Job, TrialFinished, TrialProgress
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.trial import Trial, TrialResult


@dataclass(frozen=True, slots=True)
class RungStarted:
    """A rung, or the ablation after the last one, begins: how many of its trials are already finished."""

    rung: int
    rungs: int
    budget_flops: float
    structures: tuple[LayerSpec, ...]
    trials: int
    finished: int
    is_ablation: bool = False


StudyEvent = RungStarted | TrialProgress | TrialFinished


FORMAT = 2
"""Rises when the same settings give other results: 2 since the FLOPs of a step leave out the gradient of the samples."""


def readable(spec: StudySpec, task: AnyTask, structures: Sequence[LayerSpec]) -> dict[str, Any]:
    """What decides the results of a study, as plain values: for people who ask what differs between two."""
    return {
        **_deciding(spec, structures),
        "task_settings": task.settings.model_dump(mode="json"),
        **({"task_format": task.format} if task.format > 1 else {}),
        "data": task.data_digest()[:12],
    }


def _deciding(spec: StudySpec, structures: Sequence[LayerSpec]) -> dict[str, Any]:
    """The settings that decide the results, without those of the task."""
    listed = {"name", "structures", "baselines", "files", "space", "task_settings", "ablate_balance"}
    settings = spec.model_dump(mode="json", exclude=listed)
    if spec.baselines:
        settings["baselines"] = [str(structure) for structure in spec.compared_with()]
    return settings | {"format": FORMAT, "candidates": [str(structure) for structure in structures]}


def fingerprint(spec: StudySpec, structures: Sequence[LayerSpec], task: AnyTask) -> str:
    """SHA-256 of everything that decides the results of a study."""
    settings = {**_deciding(spec, structures), "data": task.fingerprint()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def planned_counts(spec: StudySpec, structures: Sequence[LayerSpec]) -> list[int]:
    """Number of structures on every rung if all runs finish."""
    always, counts = len(spec.compared_with()), [len(structures)]
    for _ in range(spec.halving.rungs - 1):
        counts.append(always + places(spec.halving.keep, counts[-1] - always))
    return counts


def run_study(
    spec: StudySpec,
    structures: Sequence[LayerSpec],
    networks: EqualNetworks,
    store: StudyStore,
    engine: Engine,
    on_event: Callable[[StudyEvent], None],
) -> list[TrialResult]:
    """Run what is not finished yet and return the results of all trials, ablations included.

    Of candidates that are one network at a width only the first is trained there; the others get its result.

    Rungs are synchronous: the next one is decided when all trials of the one
    before have ended, so the outcome does not depend on timing, on the number
    of workers, or on interruptions.
    """
    survivors, copies = list(structures), list[TrialResult]()
    budgets = rung_budgets(spec.budget_flops, spec.halving)

    def run_all(trials: list[Trial], ran: Sequence[LayerSpec], is_ablation: bool = False) -> None:
        store.add(trials)
        rung, budget, finished = trials[0].rung, trials[0].budget_flops, len(trials) - store.waiting()
        on_event(RungStarted(rung, len(budgets), budget, tuple(ran), len(trials), finished, is_ablation))
        _run_waiting(store, engine, on_event)

    for rung, budget in enumerate(budgets):
        trials = rung_trials(survivors, spec.widths, spec.seeds, rung, budget)
        run_all([trial for trial in trials if networks.trained_as(trial, survivors) == trial], survivors)
        own = [result for result in store.results() if result.trial.rung == rung and result.trial.balanced]
        copied = networks.copies(own, trials, survivors)
        copies, results = copies + copied, own + copied
        if rung + 1 < len(budgets):
            survivors = promoted(results, survivors, spec.halving.keep, spec.compared_with())
    if spec.ablate_balance and (ablations := ablation_trials(results, survivors)):
        run_all(ablations, [trial.structure for trial in ablations], is_ablation=True)
    return sorted(store.results() + copies, key=lambda result: result.trial.rung)


def _run_waiting(store: StudyStore, engine: Engine, on_event: Callable[[StudyEvent], None]) -> None:
    def next_job() -> Job | None:
        taken = store.take()
        return None if taken is None else Job(*taken)

    def record(event: TrialProgress | TrialFinished) -> None:
        if isinstance(event, TrialFinished):
            store.finish(event.number, event.result)
        on_event(event)

    engine.run(next_job, record)
