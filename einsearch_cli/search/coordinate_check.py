"""The coordinate check of a study's structures, made after its runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from einsearch_cli.errors import DivergedError
from einsearch_cli.search.estimate import one_thread
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.run_settings import ProxyRun
from einsearch_cli.training.proxy.trial import Trial, TrialResult
from einsearch_cli.training.proxy.width_trends import LayerCoordinates

_NOTE = "coordinates"


def checked_trials(results: Iterable[TrialResult]) -> list[Trial]:
    """A finished run of each structure at the narrowest, the middle and the widest width of its highest rung."""
    found: dict[LayerSpec, dict[int, dict[int, Trial]]] = {}
    for result in results:
        if result.status == "ok":
            trial = result.trial
            found.setdefault(trial.structure, {}).setdefault(trial.rung, {}).setdefault(trial.width, trial)
    trials = []
    for rungs in found.values():
        tried = rungs[max(rungs)]
        widths = sorted(tried)
        trials += [tried[width] for width in sorted({widths[0], widths[len(widths) // 2], widths[-1]})]
    return trials


def check_coordinates(
    store: StudyStore, results: Iterable[TrialResult], task: AnyTask, spec: StudySpec, device: str = "cpu"
) -> tuple[LayerCoordinates, ...]:
    """Root mean squares of all layers of the ranked networks, each at its learning rate; known results are reused.

    A network that diverges without a warm-up is left out.
    """
    from einsearch_cli.training.proxy.coordinates import coordinates

    noted: dict[str, list[dict[str, Any]]] = dict(store.noted(_NOTE) or {})
    found: list[LayerCoordinates] = []
    base = spec.optimizer.learning_rate or task.settings.learning_rate
    for trial in checked_trials(results):
        key = f"{trial.structure}|{trial.width}|{trial.rate:.9g}"
        if key not in noted:
            run = ProxyRun(
                task=task,
                structure=trial.structure,
                width=trial.width,
                budget_flops=trial.budget_flops,
                seed=trial.seed,
                optimizer=spec.optimizer.model_copy(update={"learning_rate": base * trial.rate}),
                precision=spec.precision,
                device=device,
            )
            try:
                with one_thread():
                    noted[key] = [item.to_json() for item in coordinates(run)]
            except DivergedError:
                noted[key] = []
            store.note(_NOTE, noted)
        found += [LayerCoordinates.from_json(item) for item in noted[key]]
    return tuple(found)
