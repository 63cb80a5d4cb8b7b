"""Check whether a study's budget pays for its runs: arithmetic, before data are prepared or torch is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from einsearch_cli.errors import SpecError
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.spec import MAX_BUDGET_FLOPS, StudySpec
from einsearch_cli.search.widths import WidthGrid
from einsearch_cli.structures import LayerSpec, short_name
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.cost import MINIMUM_STEPS, minimal_budget
from einsearch_cli.training.proxy.run_settings import ProxyRun

NARROW: Final = 8
"""The widest network that counts as narrow: at these widths the factors of a structure have only a few rows."""


def width_grid(spec: StudySpec, task: AnyTask) -> WidthGrid:
    """The widths of a study: the given ones, or the grid that is searched."""
    return WidthGrid(task, spec.optimizer, None if spec.widths is None else tuple(spec.widths))


def check_budgets(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> None:
    """Check that the cheapest rung pays for every run, and that memory is enough, by arithmetic.

    Raises:
        SpecError: if the budget of the first rung pays for too few steps of some run.
        SizeError: if a structure does not fit a given width or any width, or a network cannot be allocated.
    """
    grid, budget = width_grid(spec, task), rung_budgets(spec.budget_flops, spec.halving)[0]
    runs = [
        ProxyRun(task=task, structure=structure, width=width, budget_flops=budget, optimizer=spec.optimizer)
        for structure in (*candidates, *spec.controls_of(candidates))
        for width in _needed_widths(grid, structure, budget)
    ]
    _check_budget([(minimal_budget(run), run) for run in runs], spec)


def _needed_widths(grid: WidthGrid, structure: LayerSpec, budget_flops: float) -> tuple[int, ...]:
    """The widths that must fit: the given ones, or none of a grid if some width fits, else the one that nearly fits."""
    if grid.fixed is not None:
        return grid.fixed
    number = grid.guess(structure, budget_flops)
    if grid.around(structure, number, budget_flops):
        return ()
    near = [grid.width(other) for other in range(2, number + 1)]
    cheapest = min(near, key=lambda width: grid.least_budget(structure, width))
    return (cheapest if math.isfinite(grid.least_budget(structure, cheapest)) else grid.width(number),)


def first_runs(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask, device: str = "cpu") -> list[ProxyRun]:
    """One run of the cheapest rung for every structure and width that are known at the start."""
    grid, budgets = width_grid(spec, task), rung_budgets(spec.budget_flops, spec.halving)

    def known_widths(structure: LayerSpec) -> Sequence[int]:
        if grid.fixed is not None:
            return grid.fixed
        numbers = {grid.expected(structure, budgets[0], aim) for aim in (budgets[0], budgets[-1])}
        return sorted(grid.width(number) for number in numbers if number is not None)

    return [
        ProxyRun(
            task=task,
            structure=s,
            width=width,
            budget_flops=budgets[0],
            optimizer=spec.optimizer,
            precision=spec.precision,
            device=device,
        )
        for s in (*candidates, *spec.controls_of(candidates))
        for width in known_widths(s)
    ]


def narrow_networks(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> tuple[int, float] | None:
    """The narrowest of the best widths expected on the cheapest rung, and a budget at which none is narrow.

    None if no network is narrow, or if the user gave the widths.
    """
    grid = width_grid(spec, task)
    if grid.fixed is not None:
        return None

    def first_width(structure: LayerSpec, budget_flops: float) -> float:
        number = grid.expected(structure, rung_budgets(budget_flops, spec.halving)[0])
        return math.inf if number is None else grid.width(number)

    widths = {s: first_width(s, spec.budget_flops) for s in (*candidates, *spec.controls_of(candidates))}
    structure = min(widths, key=lambda s: widths[s])
    if widths[structure] > NARROW:
        return None
    enough = spec.budget_flops
    while first_width(structure, enough) <= NARROW and enough < MAX_BUDGET_FLOPS:
        enough *= 2
    return int(widths[structure]), rounded_up(enough, digits=1)


def rounded_up(flops: float, digits: int) -> float:
    """Round up to a number of digits.

    >>> rounded_up(6.1912e8, 3), rounded_up(5e9, 1)
    (620000000.0, 5000000000.0)
    """
    unit = 10.0 ** (math.floor(math.log10(flops)) + 1 - digits)
    return math.ceil(flops / unit * (1 - 1e-12)) * unit


def _check_budget(minimal: Sequence[tuple[float, ProxyRun]], spec: StudySpec) -> None:
    """Raise SpecError if the costliest run needs more than its budget; the remedy is enough for all runs."""
    if not minimal:  # every candidate has a width that fits
        return
    needed, run = max(minimal, key=lambda each: each[0])
    if run.budget_flops < needed:
        whole = needed * spec.halving.factor ** (spec.halving.rungs - 1)
        raise SpecError(
            f"budget_flops = {spec.budget_flops:.3g} leaves {run.budget_flops:.3g} training FLOPs for a run of the first "
            f"rung: {short_name(run.structure)} at width {run.width} needs {needed:.3g} for {MINIMUM_STEPS} steps",
            remedy=f"give a budget of {rounded_up(whole, digits=3):.3g} or more, fewer rungs, or narrower widths",
        )
