"""Held-out loss of several runs, against steps or against training FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einsearch_cli.reports.chart import Chart, Line, Point, Series, linear_axis, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Look, looks_of, shortened
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import duration_text, flops_text, loss_text
from einsearch_cli.reports.training import CurvePoint, FinishedRun, TrainingReport

SKIPPED_SHARE = 0.05
"""The first part of training is not drawn: the untrained loss would squeeze everything else."""


@dataclass(frozen=True)
class Measure:
    """The quantity on the axis to the right."""

    name: str
    title: str
    value: Callable[[CurvePoint], float]
    shown: Callable[[float], str]


STEPS = Measure("steps", "optimizer steps", lambda point: float(point.step), lambda value: f"{value:,.0f}")
FLOPS = Measure("flops", "training FLOPs, embeddings and head included", lambda point: point.total_flops, flops_text)


def run_looks(report: TrainingReport) -> dict[str, Look]:
    """A look for every run by its name, ink for the dense one."""
    plain = report.dense.result.name if report.dense else None
    return looks_of((run.result.name for run in report.runs), plain)


def training_figure(report: TrainingReport, measure: Measure) -> Html | None:
    """A line for every run; None when there is nothing to draw."""
    curves = [(run, curve) for run in report.runs if (curve := _drawn(run.curve))]
    points = [point for _, curve in curves for point in curve]
    if not points or min(point.loss for point in points) <= 0:
        return None
    x = linear_axis(measure.title, max(measure.value(point) for point in points))
    x = x.with_labels(measure.shown)
    y = log_axis("held-out loss, nats per token (log scale)", [point.loss for point in points])
    looks = run_looks(report)
    series = [
        _series(run, looks[run.result.name], [(measure.value(p), p.loss) for p in curve]) for run, curve in curves
    ]
    said = f"held-out loss against {measure.title}, {len(series)} runs"
    return figure(measure.name, said, [Chart(x=x, y=y, series=series)])


def _drawn(curve: tuple[CurvePoint, ...]) -> tuple[CurvePoint, ...]:
    return tuple(point for point in curve if point.step >= SKIPPED_SHARE * curve[-1].step)


def _series(run: FinishedRun, look: Look, places: list[tuple[float, float]]) -> Series:
    tip, name = tip_of(run), shortened(run.result.name)
    end = Point(x=places[-1][0], y=places[-1][1], tip=tip)
    return Series(look=look, points=[end], lines=[Line(points=places, tip=tip)], name=name, label=name)


def tip_of(run: FinishedRun) -> str:
    """The facts of a run's mark shown on hover, one per line."""
    result = run.result
    return (
        f"{result.name}\n{result.structure}\nheld-out loss at the end: {loss_text(result.loss)}\n"
        f"{result.params:,} parameters, {result.steps:,} steps, "
        f"{flops_text(result.total_flops)} FLOPs, {duration_text(result.elapsed_s)}"
    )
