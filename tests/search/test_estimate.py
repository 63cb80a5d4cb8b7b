"""Estimates of a study's time, by a clock that the tests set."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from einsearch_cli.errors import DivergedError, SpecError
from einsearch_cli.search import estimate
from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.estimate import StudyEstimate, time_study
from einsearch_cli.search.job import TrialSetup
from einsearch_cli.search.plan import PlannedStage
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.spending import estimate_budgeted
from einsearch_cli.structures import parse_structure
from einsearch_cli.tasks import AnyTask, open_task
from einsearch_cli.training import ProxyRun, RunCost, RunSpeed
from einsearch_cli.training.proxy import cost

SETTINGS = {"teacher_width": 16, "pool_size": 2048, "validation_size": 256, "batch_size": 64}
SETUP = TrialSetup("teacher", SETTINGS)
SPEC = StudySpec.model_validate(
    {
        "structures": ["monarch", "kronecker", "btt:r=2"],
        "task_settings": SETTINGS,
        "widths": [16, 32],
        "seeds": 3,
        "budget_flops": 1.6e8,
        "halving": {"rungs": 2, "keep": 0.5, "factor": 4},
        "rates": "fixed",
        "controls": False,
        "confirm": 0,
    }
)
STEP_FLOPS = 1000
STEP_S = {16: 1e-4, 32: 3e-4}
FIXED_S = 2.0


def known_speed(run: ProxyRun, steps: int = 5, pack: int = 1) -> RunSpeed:  # noqa: ARG001
    """A run takes two seconds plus a time per thousand FLOPs that depends on the width."""
    cost = RunCost(steps=10, train_flops_per_step=STEP_FLOPS, total_flops_per_step=STEP_FLOPS, params=1)
    return RunSpeed(cost, step_s=STEP_S[run.width], fixed_s=FIXED_S)


def estimated(monkeypatch: pytest.MonkeyPatch, workers: int) -> StudyEstimate:
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    task = open_task("teacher", SETTINGS)
    return study_estimate(SPEC, task, workers)


def study_estimate(spec: StudySpec, task: AnyTask, workers: int = 1) -> StudyEstimate:
    return time_study(spec, spec.candidates(), task, LocalProcesses(SETUP, workers)).estimate(spec, spec.candidates())


def run_s(budget_flops: float) -> float:
    """The mean over the widths, by hand."""
    return FIXED_S + budget_flops / STEP_FLOPS * (1e-4 + 3e-4) / 2


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_time_is_runs_times_seconds_over_workers(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    found = estimated(monkeypatch, workers)
    first, last = found.stages
    assert first.planned == PlannedStage("seeds", 0, 4e7, structures=4, runs=24)
    assert last.planned == PlannedStage("seeds", 1, 1.6e8, structures=3, runs=18)
    assert first.seconds == pytest.approx(24 * run_s(4e7) / workers)
    assert last.seconds == pytest.approx(18 * run_s(1.6e8) / workers)
    assert found.start_up_s == estimate.LOADING_S  # torch is loaded here
    assert found.seconds == pytest.approx(found.start_up_s + first.seconds + last.seconds)
    assert found.train_flops == 24 * 4e7 + 18 * 1.6e8
    assert found.to_json()["seconds"] == found.seconds
    assert [stage["seconds"] for stage in found.to_json()["stages"]] == [first.seconds, last.seconds]


def test_more_workers_than_runs_help_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = estimated(monkeypatch, 1000).stages
    assert first.seconds == pytest.approx(run_s(4e7))


def test_probing_stops_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes four seconds, so three probes fit into ten, narrow and wide ones among them."""
    clock = count(0.0, 4.0)
    probed: list[ProxyRun] = []
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def noted(run: ProxyRun, pack: int) -> RunSpeed:
        probed.append(run)
        return known_speed(run, pack=pack)

    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", noted)
    study_estimate(SPEC, open_task("teacher", SETTINGS))
    assert len(probed) == 3


def test_a_study_without_a_finite_step_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(run: ProxyRun, pack: int) -> RunSpeed:  # noqa: ARG001
        raise DivergedError(f"{run.structure} diverged", remedy="lower the rate")

    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", diverging)
    found = study_estimate(SPEC, open_task("teacher", SETTINGS))
    assert math.isnan(found.seconds)
    assert found.to_json()["seconds"] is None


def test_runs_without_balance_loss_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one such run for every mixture of experts, in the last rung."""
    changes = {"structures": ["btt-moe:experts=4,top=2"], "widths": [16], "ablate_balance": True, "budget_flops": 1e9}
    spec = StudySpec.model_validate(SPEC.model_dump() | changes)
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    found = study_estimate(spec, open_task("teacher", SETTINGS))
    assert [stage.planned.runs for stage in found.stages] == [2 * 3, 2 * 3, 1]


def test_the_cost_of_tuning_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four candidates: four runs each for the rate, and two and a half for its check with three left."""
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    spec = SPEC.model_copy(update={"rates": "tuned"})
    found = study_estimate(spec, open_task("teacher", SETTINGS))
    assert found.tuning_runs == found.to_json()["tuning_runs"] == round(4 * 4 + 3 * 2.5)
    stages = [(stage.planned.stage, stage.planned.rung) for stage in found.stages]
    assert stages == [("rates", 0), ("seeds", 0), ("widths", 1), ("rate check", 1), ("seeds", 1)]


def test_runs_that_train_at_once_share_a_part_of_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a step is shared: by three rates or seeds, by two rates besides a known one, and by no widths."""

    def sharing(run: ProxyRun, pack: int) -> RunSpeed:
        assert pack == 3, "larger packs follow from it"
        return RunSpeed(known_speed(run).cost, step_s=2e-4, fixed_s=FIXED_S, shared_s=1e-4)

    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", sharing)
    spec = SPEC.model_copy(update={"rates": "tuned", "seeds": 5})
    task, candidates = open_task("teacher", SETTINGS), spec.candidates()
    for pack, seeds in ((8, 5), (4, 4)):
        engine = LocalProcesses(TrialSetup("teacher", SETTINGS, pack=pack), 1)
        found = time_study(spec, candidates, task, engine).estimate(spec, candidates)
        for stage in found.stages:
            together = {"rates": 3, "rate check": 2, "widths": 1, "seeds": seeds}[stage.planned.stage]
            steps = stage.planned.budget_flops / STEP_FLOPS
            step_s = 1e-4 + 1e-4 / together
            assert stage.seconds == pytest.approx(stage.planned.runs * (FIXED_S + steps * step_s)), stage.planned.stage


def test_nothing_is_timed_on_a_cpu_if_some_step_is_too_large_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task, largest = open_task("teacher", SETTINGS), parse_structure("dense")
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    flops = 64 * task.count(largest, 32).training.body
    monkeypatch.setattr(cost, "_MOST_TIMED_FLOPS", flops)
    assert study_estimate(SPEC, task).seconds > 0
    monkeypatch.setattr(cost, "_MOST_TIMED_FLOPS", flops - 1)
    unknown = study_estimate(SPEC, task)
    assert math.isnan(unknown.seconds)
    assert (unknown.to_json()["seconds"], unknown.runs) == (None, 42)
    timed = SPEC.model_copy(update={"time": "1h"})
    with pytest.raises(SpecError, match="time = 1h: no step can be timed, as some networks are too large") as caught:
        estimate_budgeted(timed, timed.candidates(), task, LocalProcesses(SETUP, 1))
    assert caught.value.remedy == "give a --budget"
    run = ProxyRun(task=task, structure=largest, width=32, budget_flops=1e9)
    assert [cost.is_timed(replace(run, device=device)) for device in ("cpu", "cuda:0")] == [False, True]
