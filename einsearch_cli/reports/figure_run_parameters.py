"""The held-out loss of full runs against their parameters."""

from __future__ import annotations

from einsearch_cli.reports.chart import Chart, Point, Series, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.figure_training import run_looks, tip_of
from einsearch_cli.reports.looks import shortened
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import count_text
from einsearch_cli.reports.training import TrainingReport

PAD = 0.15


def run_parameters_figure(report: TrainingReport) -> Html | None:
    """A mark for every run; None where all have the same number of parameters, or a loss has no logarithm."""
    results = [run.result for run in report.runs]
    if len({result.params for result in results}) < 2 or min(result.loss for result in results) <= 0:
        return None
    looks = run_looks(report)
    x = log_axis("parameters, guides not counted (log scale)", [float(result.params) for result in results], PAD)
    y = log_axis("held-out loss, nats per token (log scale)", [result.loss for result in results], PAD)
    series = [
        Series(
            look=looks[run.result.name],
            points=[Point(x=float(run.result.params), y=run.result.loss, tip=tip_of(run))],
            name=shortened(run.result.name),
        )
        for run in report.runs
    ]
    chart = Chart(x=x.with_labels(count_text), y=y, series=series, width=720)
    return figure("parameters", f"held-out loss against parameters, {len(results)} runs", [chart])
