"""The loss against tokens per parameter: how far does it pay to train one network for longer?"""

from __future__ import annotations

from einsearch_cli.reports.chart import Chart, Line, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.scaling.overtraining import Overtraining, overtraining
from einsearch_cli.structures import LayerSpec


def overtraining_figure(page: Page) -> Html | None:
    """A line for every width that was trained at two budgets or more; None without any."""
    study, looks = page.study, page.looks
    named = {item for item, look in looks.items() if look.stands_out}
    curves: dict[LayerSpec, list[Overtraining]] = {item: [] for item in study.structures}
    for curve in overtraining(run for run in study.observations if run.structure in named):
        for item in study.structures:
            if curve.structure == item:
                curves[item].append(curve)
    points = [point for some in curves.values() for curve in some for point in curve.points]
    if not points:
        return None
    chart = Chart(
        x=log_axis("tokens per parameter (log scale)", [tokens for tokens, _ in points]),
        y=log_axis(f"{study.loss_name} (log scale)", [loss for _, loss in points]),
        series=[_series(looks[item], some) for item, some in curves.items() if some],
    )
    return figure("overtraining", f"{study.loss_name} against tokens per parameter", [chart])


def _series(look: Identity, curves: list[Overtraining]) -> Series:
    points = [
        Point(
            x=tokens,
            y=loss,
            tip=f"{look.label}\nloss {loss_text(loss)}\nwidth {curve.width}, {tokens:.3g} tokens per parameter",
        )
        for curve in curves
        for tokens, loss in curve.points
    ]
    return Series(
        look=look,
        points=points,
        lines=[Line(points=curve.points, is_thin=True) for curve in curves],
        name=look.short_label,
    )
