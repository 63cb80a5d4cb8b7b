"""The loss over the width of the network, one panel per budget: does the best width lie within the tried ones?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from einsearch_cli.reports.chart import Chart, Line, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import count_text, flops_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.scaling import Observation
from einsearch_cli.scaling.surface import LEAST_CURVATURE, Minimum

MOST_PANELS = 4
"""Budgets shown, the largest ones."""
_STEPS = 12
"""Pieces of a drawn parabola."""


def widths_figure(page: Page) -> Html | None:
    """Every width of the structures that stand out, with the fitted parabolas; None with fewer than two widths."""
    study, looks = page.study, page.looks
    named = {item for item, look in looks.items() if look.stands_out}
    runs = [run for run in study.observations if run.structure in named and run.stage != "confirmation"]
    if len({run.width for run in runs}) < 2:
        return None
    budgets = [budget for budget in study.budgets if any(run.rung == budget[0] for run in runs)][-MOST_PANELS:]
    charts = [_chart(page, rung, budget, runs) for rung, budget in budgets]
    return figure("widths", f"{study.loss_name} against the width of the network, one panel for each budget", charts)


def _chart(page: Page, rung: int, budget: float, runs: Sequence[Observation]) -> Chart:
    """One budget; its axes hold the widths that were trained from all seeds, and the parabolas."""
    study, looks = page.study, page.looks
    here = [run for run in runs if run.rung == rung]
    shown = [item for item in study.structures if any(run.structure == item for run in here)]
    series = [_series(study, looks[item], rung, [run for run in here if run.structure == item]) for item in shown]
    series.sort(key=lambda item: item.look.tone != "ink")
    points = [point for item in series for point in item.points]
    main = [point for point in points if point.kind != "faint"] or points
    drawn = [(point.x, point.y) for point in main] + [
        at for item in series for line in item.lines for at in line.points
    ]
    x = log_axis("width (log scale)", [x for x, _ in drawn], most=5)
    y = log_axis(f"{study.loss_name} (log scale)", [y for _, y in drawn])
    return Chart(x=x, y=y, series=series, panel=f"rung-{rung + 1}", title=f"{flops_text(budget)} FLOPs", width=420)


def _series(study: StudyReport, look: Identity, rung: int, runs: Sequence[Observation]) -> Series:
    """Widths as dots, those with a single run faint, the fitted minimum hollow."""
    fitted = study.surfaces[look.entry.structure]
    position = fitted.at(rung)
    minimum = None if position is None else fitted.minima[position]
    cells = () if minimum is None else minimum.level.cells
    points = [Point(x=float(cell.width), y=cell.mean, tip=_tip(look, study, cell.runs)) for cell in cells]
    measured = {cell.width for cell in cells}
    pilots = {run.width: run for run in runs if run.width not in measured}
    points += [
        Point(x=float(run.width), y=run.loss, kind="faint", tip=_tip(look, study, [run])) for run in pilots.values()
    ]
    lines = []
    if minimum is not None and minimum.reason is None:
        lines = [Line(points=list(_parabola(minimum)))]
        points.append(
            Point(
                x=minimum.width,
                y=math.exp(minimum.log_loss),
                kind="hollow",
                tip=f"{look.label}\nlowest loss by the fit: {loss_text(math.exp(minimum.log_loss))}\n"
                f"at width {minimum.width:.0f}",
            )
        )
    return Series(look=look, points=points, lines=lines, name=look.short_label)


def _parabola(minimum: Minimum) -> Iterable[tuple[float, float]]:
    """(width, loss) along the fit, over the three widths around the best one."""
    curvature = max(minimum.curvature or 0.0, LEAST_CURVATURE)
    at = minimum.level.cells.index(minimum.best)
    near = minimum.level.cells[max(at - 1, 0) : at + 2]
    low, high = math.log(near[0].width), math.log(near[-1].width)
    for step in range(_STEPS + 1):
        log_width = low + (high - low) * step / _STEPS
        away = log_width - math.log(minimum.width)
        yield math.exp(log_width), math.exp(minimum.log_loss + curvature * away * away)


def _tip(look: Identity, study: StudyReport, runs: Sequence[Observation]) -> str:
    """The facts of a point shown on hover, one per line."""
    loss = math.exp(math.fsum(math.log(run.loss) for run in runs) / len(runs))
    seeds = "one run" if len(runs) == 1 else f"{len(runs)} seeds"
    return (
        f"{look.label}\n{study.loss_name}: {loss_text(loss)} ({seeds})\n"
        f"width {runs[0].width}, {count_text(runs[0].params)} parameters"
    )
