"""Whether a study's budget pays for its runs: arithmetic, before data are prepared or torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from einsearch_cli.errors import SpecError
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import LayerSpec, short_name
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.cost import MINIMUM_STEPS, minimal_budget
from einsearch_cli.training.proxy.run_settings import ProxyRun


def check_budgets(spec: StudySpec, structures: Sequence[LayerSpec], task: AnyTask) -> None:
    """Check that the cheapest rung pays for every run, and that memory is enough, by arithmetic.

    Raises:
        SpecError: if the budget of the first rung pays for too few steps of some run.
        SizeError: if a structure does not fit a width, or a network cannot be allocated.
    """
    for run in first_runs(spec, structures, task):
        _check_budget(run, spec)


def first_runs(spec: StudySpec, structures: Sequence[LayerSpec], task: AnyTask) -> list[ProxyRun]:
    """One run of the cheapest rung for every structure and width."""
    budget = rung_budgets(spec.budget_flops, spec.halving)[0]
    return [
        ProxyRun(task=task, structure=s, width=width, budget_flops=budget, optimizer=spec.optimizer)
        for s in structures
        for width in spec.widths
    ]


def _check_budget(run: ProxyRun, spec: StudySpec) -> None:
    needed = minimal_budget(run)
    if run.budget_flops < needed:
        whole = needed * spec.halving.factor ** (spec.halving.rungs - 1)
        raise SpecError(
            f"budget_flops = {spec.budget_flops:.3g} leaves {run.budget_flops:.3g} training FLOPs for a run of the first "
            f"rung: {short_name(run.structure)} at width {run.width} needs {needed:.3g} for {MINIMUM_STEPS} steps",
            remedy=f"give a budget of {whole:.3g} or more, fewer rungs, or narrower widths",
        )
