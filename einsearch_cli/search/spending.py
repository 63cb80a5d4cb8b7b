"""A budget for a whole study, in FLOPs or in time, from which the budget of its runs follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from einsearch_cli.errors import SpecError
from einsearch_cli.search.budgets import check_budgets, rounded_up
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.estimate import StudyEstimate, time_study
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import MAX_BUDGET_FLOPS, StudySpec
from einsearch_cli.settings import duration_s
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask

if TYPE_CHECKING:  # the import loads a database
    from einsearch_cli.search.store import StoredStudy, StudyStore

_NOTE = "time_budget"
_ROUNDS = 3
"""The most rounds in which steps are timed again, at the widths of the budget that was found."""
_CLOSE = 1.2
"""The factor within which a budget is close enough to the one before not to be timed again."""


def with_run_budget(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> StudySpec:
    """The study with a budget per run from its `total_flops`, and with fewer rungs if the cheapest is too short.

    A study with a `time` gets a provisional budget: what its time pays for is known after steps were timed.
    """
    if spec.time is not None:
        return _payable(spec, candidates, task)
    total = spec.total_flops
    if total is None:
        return spec

    def flops(planned: StudySpec) -> float:
        return sum(stage.train_flops for stage in planned_stages(planned, candidates))

    def setting(planned: StudySpec) -> str:
        return f"total_flops: {rounded_up(flops(planned), digits=2):.2g}"

    return _with_most_rungs(
        spec, candidates, task, lambda unit: total / flops(unit), f"total_flops = {total:.3g}", setting
    )


def estimate_budgeted(
    spec: StudySpec,
    candidates: Sequence[LayerSpec],
    task: AnyTask,
    engine: Engine,
    store: StudyStore | StoredStudy | None = None,
) -> tuple[StudySpec, StudyEstimate]:
    """The study with its estimate; if it has a `time`, with the budget per run for which the estimate equals that time.

    The store remembers this budget: a study that continues must not get another one because a step took longer today.

    Raises:
        DataError: if the task's data cannot be read.
        SpecError: the time is too short, or no step could be timed.
    """
    time = spec.time
    if time is None:
        return spec, time_study(spec, candidates, task, engine).estimate(spec, candidates)
    known = None if store is None else store.noted(_NOTE)
    if known is not None and known["time"] == time:
        halving = spec.halving.model_copy(update={"rungs": known["halving"]["rungs"]})
        spec = spec.model_copy(update={"budget_flops": known["budget_flops"], "halving": halving})
        return spec, time_study(spec, candidates, task, engine).estimate(spec, candidates)
    whole_s, named = duration_s(time) or 0.0, f"time = {time}"
    planned = spec
    for _ in range(_ROUNDS):
        timing, before = time_study(planned, candidates, task, engine), planned.budget_flops

        def budget(unit: StudySpec) -> float:
            fixed_s = timing.estimate(unit.model_copy(update={"budget_flops": 0.0}), candidates).seconds  # noqa: B023
            flop_s = timing.estimate(unit.model_copy(update={"budget_flops": 1e12}), candidates).seconds - fixed_s  # noqa: B023
            if math.isnan(fixed_s):
                raise SpecError(
                    f"{named}: no step can be timed, as some networks are too large for the CPU of this machine",
                    remedy="give a --budget",
                )
            if not fixed_s < whole_s:
                raise SpecError(
                    f"{named}: the workers, networks and validations alone take about {fixed_s:.0f} s",
                    remedy=f"{_minutes(2 * fixed_s)} or more, or fewer candidates, seeds or widths",
                )
            return float(f"{min((whole_s - fixed_s) / flop_s * 1e12, MAX_BUDGET_FLOPS):.3g}")

        def setting(planned: StudySpec) -> str:
            return _minutes(timing.estimate(planned, candidates).seconds)  # noqa: B023

        planned = _with_most_rungs(spec, candidates, task, budget, named, setting)
        if 1 / _CLOSE < planned.budget_flops / before < _CLOSE:
            break
    if store is not None:
        halving_of = planned.halving.model_dump()
        store.note(_NOTE, {"time": time, "budget_flops": planned.budget_flops, "halving": halving_of})
    return planned, timing.estimate(planned, candidates)


def _with_most_rungs(
    spec: StudySpec,
    candidates: Sequence[LayerSpec],
    task: AnyTask,
    budget_of: Callable[[StudySpec], float],
    named: str,
    setting: Callable[[StudySpec], str],
) -> StudySpec:
    """The study with as many of its rungs as its budget pays for.

    Args:
        spec: the study.
        candidates: its candidates.
        task: its task.
        budget_of: the budget of a run; called with a study of budget 1.
        named: the budget of the whole study, as the user gave it.
        setting: the setting that gives a study its budget per run, for the message.
    """
    for rungs in range(spec.halving.rungs, 0, -1):
        halving = spec.halving.model_copy(update={"rungs": rungs})
        unit = spec.model_copy(update={"budget_flops": 1.0, "halving": halving})
        planned = unit.model_copy(update={"budget_flops": budget_of(unit)})
        try:
            check_budgets(planned, candidates, task)
        except SpecError as error:
            refusal = error
        else:
            return planned
    enough = _payable(planned, candidates, task, growth=1.25)
    raise SpecError(
        f"{named}: {refusal.problem}", remedy=f"{setting(enough)} or more, or fewer candidates, seeds or widths"
    )


def _minutes(seconds: float) -> str:
    return f"time: {math.ceil(seconds / 60)}m"


def _payable(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask, growth: float = 10.0) -> StudySpec:
    """The study with a budget that pays for all its runs: its own, multiplied by `growth` until it does."""
    while True:
        try:
            check_budgets(spec, candidates, task)
        except SpecError:
            if spec.budget_flops >= MAX_BUDGET_FLOPS:
                raise
            spec = spec.model_copy(update={"budget_flops": growth * spec.budget_flops})
        else:
            return spec
