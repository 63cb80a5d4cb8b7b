"""The report of `einsearch train` as one offline HTML page."""

from __future__ import annotations

from einsearch_cli.reports.figure_training import FLOPS, STEPS, run_looks, training_figure
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.page import fill, render_page, report_section
from einsearch_cli.reports.plot import swatch
from einsearch_cli.reports.table import Cell, Row, table
from einsearch_cli.reports.training import TrainingReport, result_rows, training_findings

_READING = (
    "FLOPs are 3 × forward, guides, embeddings and head included; activations computed again are not counted. "
    "Guided steps have a dense guide for every structured layer; with matched FLOPs their tokens come again at the end."
)


@report_section("result", "Result", page="train")
def result_section(report: TrainingReport) -> Html:
    """The findings in sentences."""
    return fill("findings.html", sentences=training_findings(report))


@report_section("runs", "Runs", page="train")
def runs_section(report: TrainingReport) -> Html:
    """One row for each run."""
    looks, rows = run_looks(report), []
    texts = result_rows(report)
    for name, *others in (tuple(row.values()) for row in texts):
        sign = swatch(looks[name].marker, looks[name].tone)
        cells = [Cell(text=name, kind="name", drawing=sign), *(Cell(text=text) for text in others)]
        rows.append(Row(cells=cells, look=looks[name]))
    return table(tuple(texts[0]), rows, caption=f"Trained on {report.data}. {_READING}")


@report_section("flops", "Held-out loss against training FLOPs", page="train")
def flops_section(report: TrainingReport) -> Html | None:
    """The curves over training FLOPs."""
    return training_figure(report, FLOPS)


@report_section("steps", "Held-out loss against steps", page="train")
def steps_section(report: TrainingReport) -> Html | None:
    """The curves over optimizer steps."""
    return training_figure(report, STEPS)


@report_section("repeat", "Repeat it", page="train")
def repeat_section(report: TrainingReport) -> Html:
    """Commands and environment."""
    return fill("repeat.html", commands=report.commands, environment=report.environment)


def render_training(report: TrainingReport) -> str:
    """The page of runs that have finished."""
    return render_page("train", report.title, report)
