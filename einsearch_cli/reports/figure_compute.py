"""The loss against training compute: one line per structure through its best widths."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from einsearch_cli.reports.chart import Axis, Chart, Line, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import flops_text, interval_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.structures import LayerSpec

TALLEST = 12.0
"""End of the axis as a multiple of the median loss, so that one bad run does not flatten all others."""
SPREAD = 40.0
"""Pixels over which the marks at one of several budgets are spread sideways."""
COLUMNS = 740.0
"""Pixels over which all marks are spread if there is one budget, with a column for every structure."""


def compute_figure(page: Page) -> Html | None:
    """The loss at the best width against compute; None when no run finished."""
    study, looks = page.study, page.looks
    points = {item: _points(study, looks[item]) for item in study.surfaces}
    if not points:
        return None
    y = log_axis(f"{study.loss_name} (log scale)", _heights([point for some in points.values() for point in some]))
    computes = [point.x for some in points.values() for point in some] + [budget for _, budget in study.budgets]
    x = log_axis("training FLOPs per run (log scale)", computes, 0.07)
    x = replace(x, ticks=[(budget, flops_text(budget)) for _, budget in study.budgets])
    if len(study.budgets) == 1:
        x = replace(x, name="training FLOPs per run", low=max(computes), high=max(computes), has_grid=False)
    shifts = _shifts(page)
    order = sorted(points, key=lambda item: (looks[item].tone != "ink", not looks[item].stands_out))  # the first on top
    series = [_series(study, looks[item], points[item], y, shifts.get(item, 0.0)) for item in order]
    said = f"{study.loss_name} against training FLOPs for {len(series)} structures, both axes logarithmic"
    return figure("loss-compute", said, [Chart(x=x, y=y, series=series, height=520)])


def _points(study: StudyReport, look: Identity) -> list[Point]:
    """The loss at the best width of every rung, with its interval where the structure stands out."""
    item, found = look.entry.structure, []
    for position, minimum in enumerate(study.surfaces[item].minima):
        loss, interval = math.exp(minimum.log_loss), study.loss_interval(item, position)
        lines = (
            f"{look.label}",
            f"{item}",
            f"{study.loss_name}: {loss_text(loss)} ({len(minimum.best.runs)} seeds a width)",
            f"95% interval: {interval_text(*interval)}" if interval else "no width with two seeds: no interval",
            f"best width {minimum.width:.0f}" + (f": {minimum.reason}" if minimum.reason else ""),
            f"rung {minimum.level.rung + 1}: {flops_text(minimum.level.budget_flops)} training FLOPs",
        )
        point = Point(
            x=math.exp(minimum.log_prices[0]),
            y=loss,
            kind="dot" if minimum.reason is None else "hollow",
            tip="\n".join(lines),
            interval=interval if look.stands_out else None,
            radius=6.0 if look.tone == "ink" else 5.0 if look.stands_out else 3.5,
            label=look.number if len(study.budgets) == 1 else "",
        )
        found.append(point)
    return found


def _heights(points: list[Point]) -> list[float]:
    """The values that the upright axis has to show: losses and the ends of their intervals, but nothing far away."""
    highest = TALLEST * median(point.y for point in points)
    floor = min(point.y for point in points) / 2  # an interval may be very wide
    ends = [end for point in points for end in (point.y, *(point.interval or ()))]
    return [min(max(end, floor), highest) for end in ends]


def _shifts(page: Page) -> dict[LayerSpec, float]:
    """Pixels by which structures are moved sideways; with several budgets, grey marks may overlap."""
    one_budget = len(page.study.budgets) == 1
    present = [item for item in page.study.surfaces if one_budget or page.looks[item].stands_out]
    step = (COLUMNS if one_budget else SPREAD) / max(1, len(present) - 1)
    return {item: (position - (len(present) - 1) / 2) * step for position, item in enumerate(present)}


def _series(study: StudyReport, look: Identity, points: list[Point], y: Axis, shift: float) -> Series:
    shown = [point for point in points if y.holds(point.y)]
    name = f"{look.short_label}  {loss_text(shown[-1].y)}" if shown and look.stands_out else ""
    return Series(
        look=look,
        points=points,
        lines=[Line(points=[(point.x, point.y) for point in shown])] if len(shown) > 1 else (),
        name=name,
        label="" if len(study.budgets) == 1 else name,
        dodge=shift,
    )
