"""A budget for a whole study, from which that of its runs follows."""

from __future__ import annotations

from collections.abc import Sequence

from einsearch_cli.errors import SpecError
from einsearch_cli.search.budgets import check_budgets
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask


def with_run_budget(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> StudySpec:
    """The study with the budget of a run that its `total_flops` pay for, and fewer rungs where the cheapest would be too short.

    Raises:
        SpecError: not even one rung has steps enough.
    """
    if spec.total_flops is None:
        return spec
    for rungs in range(spec.halving.rungs, 0, -1):
        halving = spec.halving.model_copy(update={"rungs": rungs})
        unit = spec.model_copy(update={"budget_flops": 1.0, "halving": halving})
        cost = sum(stage.train_flops for stage in planned_stages(unit, candidates))
        planned = unit.model_copy(update={"budget_flops": spec.total_flops / cost})
        try:
            check_budgets(planned, candidates, task)
        except SpecError as error:
            refusal = error
        else:
            return planned
    raise SpecError(f"total_flops = {spec.total_flops:.3g}: {refusal.problem}", remedy="give more, or fewer candidates")
