"""The compute gain over the yardstick against compute: will it last?"""

from __future__ import annotations

from dataclasses import replace

from einsearch_cli.reports.chart import Chart, Line, Point, Rule, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import factor_text, flops_text, interval_text
from einsearch_cli.reports.page import Page
from einsearch_cli.scaling import RungGain

SPREAD = 26.0
"""Pixels over which the marks at one budget are spread sideways."""


def trend_figure(page: Page) -> Html | None:
    """The gain at every rung of the structures that stand out; None with fewer than two rungs."""
    shown = [
        look
        for look in page.looks.values()
        if look.stands_out and look.entry.trend is not None and len(look.entry.trend.rungs) > 1
    ]
    if not shown:
        return None
    rungs = {look.key: look.entry.trend.rungs for look in shown if look.entry.trend is not None}
    gains = [item for some in rungs.values() for item in some]
    values = [item.gain for item in gains]
    low, high = min(values) / 2, max(values) * 2  # an interval may be very wide
    ends = [min(max(end, low), high) for item in gains for end in (item.low, item.high) if end is not None]
    x = log_axis("training FLOPs per run (log scale)", [item.budget_flops for item in gains], 0.07)
    middle = (len(shown) - 1) / 2
    series = [
        _series(look, rungs[look.key], (number - middle) * SPREAD / max(1.0, 2 * middle))
        for number, look in enumerate(shown)
    ]
    budgets = sorted({item.budget_flops for item in gains})
    x = replace(x, ticks=[(budget, flops_text(budget)) for budget in budgets])
    chart = Chart(
        x=x,
        y=log_axis("compute gain over the yardstick (log scale)", [*values, *ends, 1.0]),
        series=series,
        rules=[Rule(points=[(x.low, 1.0), (x.high, 1.0)], name="as much compute as the yardstick")],
        height=420,
    )
    return figure("trend", f"compute gain against training FLOPs for {len(shown)} structures", [chart])


def _series(look: Identity, rungs: tuple[RungGain, ...], shift: float) -> Series:
    points = [
        Point(
            x=item.budget_flops,
            y=item.gain,
            interval=None if item.low is None or item.high is None else (item.low, item.high),
            tip=_tip(look, item),
        )
        for item in rungs
    ]
    line = Line(points=[(item.budget_flops, item.gain) for item in rungs])
    return Series(look=look, points=points, lines=[line], name=look.short_label, label=look.short_label, dodge=shift)


def _tip(look: Identity, item: RungGain) -> str:
    interval = "" if item.low is None or item.high is None else f"\n95% interval: {interval_text(item.low, item.high)}"
    return (
        f"{look.label}\ncompute gain {factor_text(item.gain)} at {flops_text(item.budget_flops)} FLOPs{interval}\n"
        f"trend: {look.entry.trend.word if look.entry.trend else 'cannot tell'}"
    )
