"""The loss over the learning rate, on the cheapest rung and on the last one: was the best rate found, and did it move?"""

from __future__ import annotations

from einsearch_cli.reports.chart import Chart, Line, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import flops_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.search.outcome import TunedRate

Measured = list[tuple[float, float]]


def rates_figure(page: Page) -> Html | None:
    """A panel for each rung at which rates were compared; None if rates were not tuned."""
    study, looks = page.study, page.looks
    tuned = {item: rate for item, rate in study.rates.items() if looks[item].stands_out}
    first = {item: _measured(rate, rate.tried) for item, rate in tuned.items()}
    last = {item: _measured(rate, rate.last_tried) for item, rate in tuned.items()}
    panels = [("first", first, 0), ("last", last, -1)]
    shown = [(name, some, rung) for name, some, rung in panels if any(some.values())]
    if not shown or not study.budgets:
        return None
    points = [point for _, some, _ in shown for values in some.values() for point in values]
    x = log_axis("learning rate at the base width (log scale)", [rate for rate, _ in points], most=6)
    charts = []
    for name, some, rung in shown:
        y = log_axis(f"{study.loss_name} (log scale)", [loss for values in some.values() for _, loss in values])
        series = [_series(looks[item], tuned[item], values) for item, values in some.items() if values]
        series.sort(key=lambda item: item.look.tone != "ink")
        title = f"{flops_text(study.budgets[rung][1])} FLOPs"
        charts.append(Chart(x=x, y=y, series=series, panel=name, title=title, width=450))
    return figure("rates", f"{study.loss_name} against the learning rate for {len(tuned)} structures", charts)


def _measured(rate: TunedRate, tried: tuple[tuple[float, float | None], ...]) -> Measured:
    return [(rate.base * multiple, loss) for multiple, loss in tried if loss is not None and loss > 0]


def _series(look: Identity, rate: TunedRate, values: Measured) -> Series:
    points = [
        Point(
            x=at,
            y=loss,
            tip=f"{look.label}\nlearning rate {at:.3g}\nloss {loss_text(loss)}\nchosen: {rate.learning_rate:.3g}",
        )
        for at, loss in values
    ]
    return Series(look=look, points=points, lines=[Line(points=values)], name=look.short_label)
