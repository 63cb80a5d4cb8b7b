"""Costs of every structure in seconds, FLOPs and parameters, and the loss at every width that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import (
    MISSING,
    duration_text,
    flops_text,
    interval_text,
    loss_text,
    share_text,
    time_text,
)
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.table import Cell, Row, number, structure, table, without_constants
from einsearch_cli.scaling import Cell as WidthCell, Level

_HEADS = (
    *("structure", "width", "parameters", "steps", "a step", "a run", "FLOPs of a run", "with head", "executed"),
    *("seeds", "spread"),
)
_WIDTH_HEADS = ("structure", "FLOPs", "width", "parameters", "steps", "a step", "rate", "loss", "seeds", "spread")


def costs_section(page: Page) -> Html | None:
    """A row for each structure at its best width of the last rung that it was trained on; None without a finished run."""
    study = page.study
    rows = [Row(cells=_costs(study, look), look=look) for look in page.looks.values() if look.entry.loss is not None]
    if not rows:
        return None
    is_timed = bool(study.step_seconds)
    sentences = [
        "Every structure at its best width, with the largest budget that it got.",
        "A step: of training, timed with all other networks in turn (on a CPU: by one thread). A run: steps times that."
        if is_timed
        else "Steps were not timed in this study.",
        "FLOPs of a run: those that the budget counts; with head: embeddings and head included; executed: as counted by torch, "
        "where an order of products costs more than the cheapest.",
        _noise(study),
    ]
    keep = ("structure", *(("a step", "a run") if is_timed else ()))
    heads, rows, constants = without_constants(_HEADS, rows, keep=keep)
    return table(heads, rows, heads[1:], caption=" ".join([*sentences, *constants]))


def _noise(study: StudyReport) -> str:
    noise, degrees = study.ranking.noise, study.ranking.noise_degrees
    if noise is None or degrees is None:
        return "Every network was trained from one seed, so that the spread between seeds is not known."
    return (
        "Spread: from the lowest to the highest loss of the seeds, as a share of their mean. Over the whole study the loss "
        f"of one run scatters by {share_text(noise)} (standard deviation, {degrees:.0f} degrees of freedom)."
    )


def _costs(study: StudyReport, look: Identity) -> list[Cell]:
    level = study.levels[look.entry.structure][-1]
    runs = study.runs_of(look.entry.structure, level.best)
    step_s = study.step_seconds.get((look.entry.structure, level.best.width))
    steps = fmean(run.steps for run in runs)
    executed = [run.executed_flops for run in runs if run.executed_flops is not None]
    return [
        structure(look.entry.structure, look),
        number(str(level.best.width)),
        number(f"{level.best.params:,}"),
        number(f"{steps:,.0f}"),
        number(MISSING if step_s is None else time_text(step_s)),
        number(MISSING if step_s is None else _time(step_s * steps)),
        number(flops_text(fmean(run.train_flops for run in runs))),
        number(flops_text(fmean(run.total_flops for run in runs))),
        number(flops_text(fmean(executed)) if len(executed) == len(runs) else MISSING),
        number(str(len(runs))),
        _spread(level.best),
    ]


def _time(seconds: float) -> str:
    return time_text(seconds) if seconds < 60 else duration_text(seconds)


def _spread(cell: WidthCell) -> Cell:
    losses = [loss for _, loss in cell.losses]
    if len(losses) < 2:
        return number(MISSING)
    return number(share_text((max(losses) - min(losses)) / cell.mean), interval_text(min(losses), max(losses)))


def widths_table(page: Page) -> Html | None:
    """A row for every structure, budget and width, largest budget first, best structure first; folded away."""
    rungs = sorted(((rung, budget) for rung, budget in page.study.budgets), reverse=True)
    rows = [
        Row(cells=_width_cells(page.study, look, level, cell), look=look)
        for rung, _ in rungs
        for look in page.looks.values()
        for level in page.study.levels[look.entry.structure]
        if level.rung == rung
        for cell in level.all_cells
    ]
    if not rows:
        return None
    heads, shown, constants = without_constants(_WIDTH_HEADS, rows, keep=("structure", "loss"))
    said = [
        "The mean over seeds with its 95% interval. Rate: the base learning rate, as 'Rates shown' says above.",
        *constants,
    ]
    summary = f"Loss at every width ({len(rows)} rows)"
    return table(heads, shown, heads[1:], caption=" ".join(said), summary=summary, is_filtered=True)


def _width_cells(study: StudyReport, look: Identity, level: Level, cell: WidthCell) -> Sequence[Cell]:
    runs = study.runs_of(look.entry.structure, cell)
    interval = study.cell_interval(look.entry.structure, cell)
    step_s = study.step_seconds.get((look.entry.structure, cell.width))
    rate = runs[0].learning_rate
    return [
        Cell(text=look.label, kind="name"),
        number(flops_text(level.budget_flops)),
        number(str(cell.width)),
        number(f"{cell.params:,}"),
        number(f"{fmean(run.steps for run in runs):,.0f}"),
        number(MISSING if step_s is None else time_text(step_s)),
        number(MISSING if rate is None else f"{rate:.3g}"),
        number(loss_text(cell.mean), MISSING if interval is None else interval_text(*interval)),
        number(str(len(runs))),
        _spread(cell),
    ]
