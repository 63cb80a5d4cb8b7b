"""A budget for the whole study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.estimate import StudyEstimate
from einsearch_cli.search.job import TrialSetup
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import StudySpec, parse_study_spec
from einsearch_cli.search.spending import estimate_budgeted, with_run_budget
from einsearch_cli.training import ProxyRun, RunCost, RunSpeed
from tests.search.synthetic import Law, run_synthetic


def planned(total: float, **settings: object) -> StudySpec:
    spec = StudySpec.model_validate({"structures": ["monarch", "low-rank"], "total_flops": total, **settings})
    return with_run_budget(spec, spec.candidates(), spec.open_task())


def test_the_runs_cost_what_was_given() -> None:
    spec = planned(3e12)
    assert sum(stage.train_flops for stage in planned_stages(spec, spec.candidates())) == pytest.approx(3e12)
    spent = sum(trial.budget_flops for trial in run_synthetic(spec, lambda _: Law(noise=0.005)).ran)
    assert spent == pytest.approx(3e12, rel=0.15)


def test_rungs_that_would_be_too_short_are_left_out() -> None:
    assert planned(3e12).halving.rungs == 3
    assert planned(5e9, widths=[32]).halving.rungs == 1


def test_a_total_that_is_too_small_is_refused_with_one_that_is_enough() -> None:
    with pytest.raises(SpecError, match=r"total_flops = 1e\+06: budget_flops = .* leaves") as caught:
        planned(1e6)
    option, number = caught.value.remedy.split(" or more")[0].split()
    assert option == "total_flops:"
    assert planned(float(number)).halving.rungs == 1
    with pytest.raises(SpecError):
        planned(float(number) / 2)


def known_speed(run: ProxyRun, pack: int = 1) -> RunSpeed:  # noqa: ARG001
    """A step takes longer in a wider network; building the network and validations take half a second."""
    cost = RunCost(steps=10, train_flops_per_step=1000 * run.width, total_flops_per_step=1000, params=1)
    return RunSpeed(cost, step_s=1e-6 * run.width**0.5, fixed_s=0.5)


class Notes:
    """The notes in a study's folder."""

    def __init__(self) -> None:
        self.kept: dict[str, object] = {}
        self.noted, self.note = self.kept.get, self.kept.__setitem__


def timed(time: str, workers: int, store: object = None, **settings: object) -> tuple[StudySpec, StudyEstimate]:
    spec = StudySpec.model_validate({"structures": ["monarch", "low-rank"], "time": time, **settings})
    task, engine = spec.open_task(), LocalProcesses(TrialSetup("teacher"), workers)
    spec = with_run_budget(spec, spec.candidates(), task)
    return estimate_budgeted(spec, spec.candidates(), task, engine, store)  # type: ignore[arg-type]


def test_the_estimate_is_the_time_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    spec, estimate = timed("2h", 1)
    assert estimate.seconds == pytest.approx(7200, rel=0.01)
    assert spec.halving.rungs == 3
    assert timed("120m", 1)[0].budget_flops == spec.budget_flops
    assert timed("4h", 1)[0].budget_flops > 1.5 * spec.budget_flops
    both, of_two = timed("2h", 2)
    assert of_two.seconds == pytest.approx(7200, rel=0.01)
    assert both.budget_flops > 1.5 * spec.budget_flops, "two workers train twice as much"


def test_a_study_that_goes_on_keeps_the_budget_that_its_time_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    store = Notes()
    first, _ = timed("2h", 1, store)
    monkeypatch.setattr(
        "einsearch_cli.training.proxy.run.probe", lambda run, pack: replace(known_speed(run, pack), fixed_s=1.0)
    )
    again, _ = timed("2h", 1, store)
    assert (again.budget_flops, again.halving) == (first.budget_flops, first.halving)
    assert timed("3h", 1, store)[0].budget_flops != first.budget_flops


def test_a_study_that_goes_on_obeys_a_changed_share_of_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    store = Notes()
    first, _ = timed("2h", 1, store)
    again, _ = timed("2h", 1, store, halving={"keep": 1})
    assert (again.budget_flops, again.halving.rungs, again.halving.keep) == (first.budget_flops, first.halving.rungs, 1)


def enough_time(remedy: str) -> str:
    option, time = remedy.split(" or more")[0].split()
    assert option == "time:"
    return time


def test_a_time_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", known_speed)
    with pytest.raises(
        SpecError, match=r"time = 20s: the workers, networks and validations alone take about \d+ s"
    ) as caught:
        timed("20s", 1)
    assert timed(enough_time(caught.value.remedy), 1)[0].budget_flops > 0
    slow = RunSpeed(RunCost(steps=10, train_flops_per_step=1000, total_flops_per_step=1000, params=1), 3.0, 0.0)
    monkeypatch.setattr("einsearch_cli.training.proxy.run.probe", lambda _, pack: slow)  # noqa: ARG005
    with pytest.raises(SpecError, match=r"time = 60s: budget_flops = .* leaves") as caught:
        timed("60s", 1, widths=[64])
    assert timed(enough_time(caught.value.remedy), 1, widths=[64])[0].halving.rungs == 1


def test_a_study_has_one_budget() -> None:
    with pytest.raises(EinsearchError, match="say the same in two ways"):
        parse_study_spec({"structures": ["monarch"], "budget_flops": 1e9, "total_flops": 1e12})
    with pytest.raises(EinsearchError, match="total_flops and time say the same in two ways"):
        parse_study_spec({"structures": ["monarch"], "time": "2h", "total_flops": 1e12})
