"""The loss against the parameters of the network, one panel per budget: what does a small model cost in loss?"""

from __future__ import annotations

from einsearch_cli.reports.chart import Chart, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.figure_widths import MOST_PANELS
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import count_text, flops_text, interval_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.scaling import Level

PAD = 0.12
"""Room around the best widths, so that some of the other widths lie inside."""


def parameters_figure(page: Page) -> Html | None:
    """The best width of every structure that stands out, with its interval; None if all networks are of one size.

    Structures that do not stand out have one faint mark, at their best width.
    """
    study = page.study
    shown = [(look, level) for look in page.looks.values() for level in study.levels[look.entry.structure]]
    shown = sorted(shown, key=lambda pair: not pair[0].stands_out)  # what stands out is drawn on top
    if len({cell.params for _, level in shown for cell in level.all_cells}) < 2:
        return None
    budgets = [budget for budget in study.budgets if any(level.rung == budget[0] for _, level in shown)][-MOST_PANELS:]
    charts = [
        _chart(study, rung, budget, [(look, level) for look, level in shown if level.rung == rung])
        for rung, budget in budgets
    ]
    return figure("parameters", f"{study.loss_name} against parameters, one panel for each budget", charts)


def _chart(study: StudyReport, rung: int, budget: float, shown: list[tuple[Identity, Level]]) -> Chart:
    series = [_series(study, look, level) for look, level in shown]
    series.sort(key=lambda item: item.look.tone != "ink")
    points = [point for item in series for point in item.points]
    main = [point for point in points if point.kind == "dot"] or points
    heights = [height for point in main for height in (point.y, *(point.interval or ()))]
    x = log_axis("parameters, embeddings and head included (log scale)", [point.x for point in main], PAD, most=5)
    y = log_axis(f"{study.loss_name} (log scale)", heights, PAD)
    return Chart(
        x=x.with_labels(count_text),
        y=y,
        series=series,
        panel=f"rung-{rung + 1}",
        title=f"{flops_text(budget)} FLOPs",
        width=420,
    )


def _series(study: StudyReport, look: Identity, level: Level) -> Series:
    """The best width as a dot with its interval, other widths faint; of a structure further down the best width, faint."""
    points = []
    for cell in level.all_cells if look.stands_out else (level.best,):
        interval = study.cell_interval(look.entry.structure, cell)
        is_best, seeds = cell is level.best and look.stands_out, len(cell.runs)
        lines = (
            look.label,
            f"{cell.params:,} parameters, width {cell.width}",
            f"{study.loss_name}: {loss_text(cell.mean)} ({'one run' if seeds == 1 else f'{seeds} seeds'})",
            *([f"95% interval: {interval_text(*interval)}"] if interval else []),
        )
        points.append(
            Point(
                x=float(cell.params),
                y=cell.mean,
                kind="dot" if is_best else "faint",
                interval=interval if is_best else None,
                tip="\n".join(lines),
            )
        )
    return Series(look=look, points=points, name=look.short_label if look.stands_out else "")
