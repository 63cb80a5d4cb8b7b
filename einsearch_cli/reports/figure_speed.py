"""Layers as points, one chart for each mode, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from einsearch_cli.reports.chart import Axis, Chart, Point, Rule, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Look, looks_of
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import bytes_text, factor_text, flops_text, share_text, time_text
from einsearch_cli.reports.speed_table import case_title

if TYPE_CHECKING:
    from einsearch_cli.speed import BenchResult, Measurement, Mode

SMALL, LARGE = 3.8, 7.0
"""Radii of the points of the narrowest and the widest layer."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure's contents: names and values of both axes, and a line that means something."""

    name: str
    x_name: str
    x: Callable[[Measurement], float]
    y_name: str
    y: Callable[[Measurement], float]
    level: str
    """The meaning of the line at y = 1."""
    is_diagonal: bool
    """Whether y = x means something too."""


SPEEDUP = Comparison(
    "speed-up",
    "theoretical speed-up: FLOPs of dense / FLOPs",
    lambda item: item.theoretical_speedup,
    "speed-up over nn.Linear",
    lambda item: item.speedup,
    "nn.Linear",
    True,
)
OVERHEAD = Comparison(
    "overhead",
    "FLOPs of a call",
    lambda item: float(item.flops),
    "time / time of the bare products",
    lambda item: item.vs_bare.median,
    "bare products",
    False,
)


def speed_figure(result: BenchResult, shown: Comparison) -> Html:
    """One chart for each mode; all have the same axes."""
    items = result.measurements
    x = log_axis(shown.x_name, [shown.x(item) for item in items] + [1.0] * shown.is_diagonal, most=5)
    if not shown.is_diagonal:
        x = x.with_labels(lambda value: flops_text(value).removeprefix("1×"))
    y = log_axis(shown.y_name, [*(shown.y(item) for item in items), 1.0])
    looks = looks_of((item.name for item in items), "dense")
    charts = [_chart(result, looks, shown, x, y, mode) for mode in sorted({item.case.mode for item in items})]
    said = f"{shown.y_name} against {shown.x_name}, both axes logarithmic, for {len(looks)} layers"
    return figure(shown.name, said, charts)


def _chart(result: BenchResult, looks: dict[str, Look], shown: Comparison, x: Axis, y: Axis, mode: Mode) -> Chart:
    items = [item for item in result.measurements if item.case.mode is mode]
    radii = _radii(sorted({item.case.width for item in items}))
    series = [
        Series(look=looks[item.name], points=[_point(shown, item, radii[item.case.width])], name=item.name)
        for item in sorted(items, key=lambda item: item.case.width)
    ]
    rules = [Rule(points=[(x.low, 1.0), (x.high, 1.0)], name=shown.level)]
    if shown.is_diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        rules.append(Rule(points=[(low, low), (high, high)], name="all of it realised"))
    return Chart(x=x, y=y, series=series, rules=rules, panel=str(mode), title=str(mode), width=360)


def _radii(widths: list[int]) -> dict[int, float]:
    if len(widths) == 1:
        return {widths[0]: (SMALL + LARGE) / 2}
    step = (LARGE - SMALL) / (len(widths) - 1)
    return {width: SMALL + step * number for number, width in enumerate(widths)}


def _point(shown: Comparison, item: Measurement, radius: float) -> Point:
    return Point(x=shown.x(item), y=shown.y(item), radius=radius, tip=tip(item))


def tip(item: Measurement) -> str:
    """The facts of a point shown on hover, one per line."""
    lines = (
        item.name,
        case_title(item.case),
        f"{time_text(item.layer_s.median)} a call; nn.Linear {time_text(item.dense_s.median)}, "
        f"bare products {time_text(item.bare_s.median)}",
        f"speed-up {factor_text(item.speedup)} of {factor_text(item.theoretical_speedup)} possible: "
        f"{share_text(item.realised)}",
        f"{item.vs_bare.median:.2f} times its bare products, {item.gflops_per_s:.1f} GFLOP/s",
        f"peak memory {bytes_text(item.peak_bytes)}; nn.Linear {bytes_text(item.dense_peak_bytes)}",
    )
    return "\n".join(lines)
