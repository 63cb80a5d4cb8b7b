"""The loss against training compute: one line per structure, its widths as points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import median

from einsearch_cli.reports.chart import Axis, Chart, Line, Point, Series, figure, log_axis
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import count_text, flops_text, interval_text, loss_text
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.scaling import Cell, Level, t_interval
from einsearch_cli.structures import LayerSpec

TALLEST = 12.0
"""Losses above this many times the median are left out, lest one bad run flatten all others."""
SPREAD = 40.0
"""Pixels over which the marks at one of several budgets are spread sideways."""
COLUMNS = 740.0
"""Pixels over which all marks are spread where there is one budget, and a column for every structure."""


def compute_figure(study: StudyReport, looks: dict[LayerSpec, Identity]) -> Html | None:
    """The loss–compute plot; None when no run has a positive loss."""
    levels = [level for some in study.levels.values() for level in some]
    positive = [level.best for level in levels if level.best.mean > 0 and level.best.compute > 0]
    if not positive:
        return None
    y = log_axis(f"{study.loss_name} (log scale)", _heights(positive))
    computes = [cell.compute for level in levels for cell in level.cells] + [budget for _, budget in study.budgets]
    x = log_axis("training FLOPs per run (log scale)", computes, 0.07)
    x = replace(x, ticks=[(budget, flops_text(budget)) for _, budget in study.budgets])
    if len(study.budgets) == 1:
        x = replace(x, name="training FLOPs per run", low=max(computes), high=max(computes), has_grid=False)
    shifts = _shifts(study, looks)
    drawn = [item for item in study.structures if study.levels[item]]
    drawn.sort(key=lambda item: (looks[item].tone != "ink", not looks[item].stands_out))  # the yardstick on top
    series = [_series(study, looks[item], y, shifts.get(item, 0.0)) for item in drawn]
    said = f"{study.loss_name} against training FLOPs for {len(drawn)} structures, both axes logarithmic"
    return figure("loss-compute", said, [Chart(x=x, y=y, series=series, height=520)])


def _heights(cells: list[Cell]) -> list[float]:
    """What the upright axis has to hold: means and the ends of their intervals, but nothing far away."""
    highest = TALLEST * median(cell.mean for cell in cells)
    floor = min(cell.mean for cell in cells) / 2  # a wide interval may reach zero
    ends = [end for cell in cells for end in (cell.mean, *(_interval(cell) or ()))]
    return [min(max(end, floor), highest) for end in ends]


def _interval(cell: Cell) -> tuple[float, float] | None:
    found = t_interval([loss for _, loss in cell.losses])
    return None if found is None else (found[0], found[1])


def _shifts(study: StudyReport, looks: dict[LayerSpec, Identity]) -> dict[LayerSpec, float]:
    """Pixels by which structures are moved sideways; with several budgets what is grey may overlap."""
    one_budget = len(study.budgets) == 1
    present = [item for item in study.structures if study.levels[item] and (one_budget or looks[item].stands_out)]
    step = (COLUMNS if one_budget else SPREAD) / max(1, len(present) - 1)
    return {item: (position - (len(present) - 1) / 2) * step for position, item in enumerate(present)}


def _series(study: StudyReport, look: Identity, y: Axis, shift: float) -> Series:
    """Everything of one structure: other widths faint, the best width with its interval, the line."""
    levels = [level for level in study.levels[look.entry.structure] if level.best.mean > 0]
    shown = [level.best for level in levels if y.holds(level.best.mean)]
    one_budget = len(study.budgets) == 1
    radius = 6.0 if look.tone == "ink" else 5.0 if look.stands_out else 3.5
    best = [
        Point(
            x=cell.compute,
            y=cell.mean,
            tip=cell_tip(look, cell, study),
            interval=_interval(cell) if look.stands_out else None,
            radius=radius,
            label=look.number if one_budget else "",
        )
        for cell in shown
    ]
    name = f"{look.short_label}  {loss_text(shown[-1].mean)}" if shown and look.stands_out else ""
    return Series(
        look=look,
        points=[*_other_widths(study, look, levels, y), *best],
        lines=[Line(points=[(cell.compute, cell.mean) for cell in shown])] if len(shown) > 1 else (),
        name=name,
        label="" if one_budget else name,
        dodge=shift,
    )


def _other_widths(study: StudyReport, look: Identity, levels: Iterable[Level], y: Axis) -> Iterable[Point]:
    cells = (cell for level in levels for cell in level.cells if cell is not level.best)
    for cell in cells:
        if look.stands_out and cell.mean > 0 and y.holds(cell.mean):
            yield Point(x=cell.compute, y=cell.mean, kind="faint", tip=cell_tip(look, cell, study))


def cell_tip(look: Identity, cell: Cell, study: StudyReport) -> str:
    """What a point shows on hover, one fact per line."""
    interval = _interval(cell)
    seeds = f"{len(cell.losses)} seed{'s' * (len(cell.losses) != 1)}"
    lines = (
        f"{look.label}",
        f"{look.entry.structure}",
        f"{study.loss_name}: {loss_text(cell.mean)} ({seeds})",
        f"95% interval: {interval_text(*interval)}" if interval else "one seed: no interval",
        f"width {cell.width}, {count_text(cell.params)} parameters",
        f"rung {cell.rung + 1}: {flops_text(cell.compute)} training FLOPs",
    )
    return "\n".join(lines)
