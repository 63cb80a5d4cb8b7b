"""A budget for the whole study."""

from __future__ import annotations

import pytest

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import StudySpec, parse_study_spec
from einsearch_cli.search.spending import with_run_budget
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
    with pytest.raises(SpecError, match=r"total_flops = 1e\+06: budget_flops = .* leaves"):
        planned(1e6)


def test_a_study_has_one_budget() -> None:
    with pytest.raises(EinsearchError, match="say the same in two ways"):
        parse_study_spec({"structures": ["monarch"], "budget_flops": 1e9, "total_flops": 1e12})
