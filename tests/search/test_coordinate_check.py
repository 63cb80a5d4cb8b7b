"""Which networks of a study get a coordinate check, and what is stored of it."""

from __future__ import annotations

import pytest

from einsearch_cli.errors import DivergedError
from einsearch_cli.search.coordinate_check import check_coordinates, checked_trials
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.training.proxy.run_settings import ProxyRun
from einsearch_cli.training.proxy.width_trends import LayerCoordinates
from tests.search.synthetic import Law, MemoryStore, run_synthetic

SPEC = StudySpec.model_validate(
    {"structures": ["monarch"], "budget_flops": 2.5e10, "confirm": 0, "halving": {"rungs": 2}}
)


def test_three_widths_of_the_last_rung_are_checked_once_at_the_tuned_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run_synthetic(SPEC, lambda _: Law(rate=2.0, width=60.0)).outcome
    runs: list[ProxyRun] = []

    def checked(run: ProxyRun) -> tuple[LayerCoordinates, ...]:
        runs.append(run)
        if run.width == widest:
            raise DivergedError("loss became NaN", remedy="lower the rate")
        return (LayerCoordinates(run.structure, run.width, "head", 0.0, (0.1, 0.2)),)

    trials = checked_trials(outcome.ranked)
    widest = max(trial.width for trial in trials)
    monkeypatch.setattr("einsearch_cli.training.proxy.coordinates.coordinates", checked)
    store, task = MemoryStore(), SPEC.open_task()
    first, again = (check_coordinates(store, outcome.ranked, task, SPEC) for _ in range(2))  # type: ignore[arg-type]
    for structure in SPEC.candidates():
        tried = {r.trial.width for r in outcome.ranked if (r.trial.structure, r.trial.rung) == (structure, 1)}
        mine = [trial.width for trial in trials if trial.structure == structure]
        assert {trial.rung for trial in trials} == {1}
        assert (mine[0], len(mine), mine[-1]) == (min(tried), 3, max(tried))
    assert [(run.structure, run.width) for run in runs] == [(trial.structure, trial.width) for trial in trials]
    assert {run.optimizer.learning_rate for run in runs} == {tuned.learning_rate for tuned in outcome.rates.values()}
    assert first == again
    assert [item.width for item in first] == [trial.width for trial in trials if trial.width != widest]
