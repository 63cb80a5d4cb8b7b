"""Held-out loss of several runs, against steps or against training FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einsearch_cli.reports.identity import MARKERS
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import duration_text, flops_text, loss_text
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    figure,
    log_ticks,
    mark,
    padded_range,
    polyline,
    spread_apart,
    text,
    x_tick,
    y_tick,
)
from einsearch_cli.reports.training import CurvePoint, FinishedRun, TrainingReport

WIDTH, HEIGHT = 1040, 400
LEFT, RIGHT, TOP, BOTTOM = 74, 190, 14, 56
LABEL_GAP = 17.0
LONGEST_LABEL = 22
SKIPPED_SHARE = 0.05
"""The first part of training is not drawn: the untrained loss would squeeze everything else."""


@dataclass(frozen=True)
class Axis:
    """What runs to the right."""

    name: str
    title: str
    value: Callable[[CurvePoint], float]
    shown: Callable[[float], str]


STEPS = Axis("steps", "optimizer steps", lambda point: float(point.step), lambda value: f"{value:,.0f}")
FLOPS = Axis("flops", "training FLOPs, embeddings and head included", lambda point: point.total_flops, flops_text)


def tone_of(report: TrainingReport, run: FinishedRun) -> str:
    """CSS class of a run's colour: ink for the dense one."""
    coloured = [other for other in report.runs if other is not report.dense]
    return "ink" if run is report.dense else f"c{coloured.index(run) % len(MARKERS) + 1}"


def marker_of(report: TrainingReport, run: FinishedRun) -> str:
    """Shape that goes with the colour."""
    return MARKERS[report.runs.index(run) % len(MARKERS)]


def training_figure(report: TrainingReport, axis: Axis) -> Html | None:
    """A line for every run; None when there is nothing to draw."""
    curves = {run.result.name: (run, _drawn(run.curve)) for run in report.runs}
    points = [point for _, curve in curves.values() for point in curve]
    if not points or min(point.loss for point in points) <= 0:
        return None
    x = Scale(0.0, max(axis.value(point) for point in points), LEFT, WIDTH - RIGHT - 10, logarithmic=False)
    y = Scale(*padded_range([point.loss for point in points], 0.06), HEIGHT - BOTTOM, TOP)
    lines = [_line(report, run, curve, axis, x, y) for run, curve in curves.values() if curve]
    return figure(
        axis.name,
        WIDTH,
        HEIGHT,
        f"held-out loss against {axis.title}, {len(lines)} runs",
        _axes(axis, x, y),
        *lines,
        _labels(report, [(run, curve[-1]) for run, curve in curves.values() if curve], axis, x, y),
    )


def _drawn(curve: tuple[CurvePoint, ...]) -> tuple[CurvePoint, ...]:
    return tuple(point for point in curve if point.step >= SKIPPED_SHARE * curve[-1].step)


def _axes(axis: Axis, x: Scale, y: Scale) -> Html:
    right, bottom = float(WIDTH - RIGHT), float(HEIGHT - BOTTOM)
    parts: list[str] = []
    for tick in log_ticks(y.low, y.high):
        parts.append(element("line", x1=float(LEFT), x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(y_tick(f"{tick:g}", tick, LEFT - 10.0, y(tick)))
    for quarter in range(5):
        value = quarter / 4 * x.high
        parts.append(x_tick(axis.shown(value) if quarter else "0", value, x(value), bottom + 20))
    parts.append(element("line", x1=float(LEFT), x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(text(axis.title, (LEFT + right) / 2, HEIGHT - 10.0, class_="axis-name middle"))
    turned = f"translate(16 {(TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(text("held-out loss, nats per token (log scale)", 0, 0, class_="axis-name middle", transform=turned))
    return joined(parts)


def _line(
    report: TrainingReport, run: FinishedRun, curve: tuple[CurvePoint, ...], axis: Axis, x: Scale, y: Scale
) -> Html:
    places = [(x(axis.value(point)), y(point.loss)) for point in curve]
    last = data_of(x=axis.value(curve[-1]), y=curve[-1].loss)
    carried = data_of(x=[axis.value(point) for point in curve], y=[point.loss for point in curve])
    right, height = places[-1]
    end = mark(marker_of(report, run), right, height, 5.0, class_="dot", data_tip=_tip(run), **last)
    path = polyline(places, class_="line", data_tip=_tip(run), **carried)
    return element("g", path, end, class_=f"series {tone_of(report, run)}", data_s=run.result.name)


def _tip(run: FinishedRun) -> str:
    result = run.result
    return (
        f"{result.name}\n{result.structure}\nheld-out loss at the end: {loss_text(result.loss)}\n"
        f"{result.steps:,} steps, {flops_text(result.total_flops)} FLOPs, {duration_text(result.elapsed_s)}"
    )


def _labels(report: TrainingReport, ends: list[tuple[FinishedRun, CurvePoint]], axis: Axis, x: Scale, y: Scale) -> Html:
    heights = [y(point.loss) for _, point in ends]
    placed = spread_apart(heights, LABEL_GAP, TOP + 6.0, HEIGHT - BOTTOM - 4.0)
    column = x.end + 22
    parts: list[str] = []
    for (run, point), height, label_height in zip(ends, heights, placed, strict=True):
        name = run.result.name
        shown = name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
        leader = polyline([(x(axis.value(point)) + 7, height), (column - 4, label_height)], class_="leader")
        label = text(shown, column, label_height + 4, class_="label")
        parts.append(element("g", leader, label, class_=f"series {tone_of(report, run)}", data_s=name))
    return joined(parts)
