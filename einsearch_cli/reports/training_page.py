"""The report of `einsearch train` as one offline HTML page."""

from __future__ import annotations

import os

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.figure_training import FLOPS, STEPS, run_looks, training_figure
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.page import html_document
from einsearch_cli.reports.plot import swatch
from einsearch_cli.reports.sections import caption
from einsearch_cli.reports.training import TrainingReport, result_rows, training_findings


def render_training(report: TrainingReport) -> str:
    """The page of runs that have finished."""
    first, *rest = training_findings(report)
    said = joined([element("p", first, class_="lead"), *(element("p", sentence) for sentence in rest)])
    sections = {
        "result": ("Result", said),
        "runs": ("Runs", joined([_table(report), caption(f"Trained on {report.data}.", _READING)])),
        "flops": ("Held-out loss against training FLOPs", training_figure(report, FLOPS)),
        "steps": ("Held-out loss against steps", training_figure(report, STEPS)),
        "repeat": ("Repeat it", _repeat(report)),
    }
    parts = [
        element("section", element("h2", title), inside, id=f"section-{name}")
        for name, (title, inside) in sections.items()
        if inside is not None
    ]
    return html_document(report.title, "einsearch train", parts)


_READING = (
    "FLOPs are 3 × forward, guides, embeddings and head included; activations computed again are not counted. "
    "Guided steps have a dense guide beside every structured layer; with matched FLOPs their tokens come again at the end."
)


def write_training_page(path: str | os.PathLike[str], report: TrainingReport) -> None:
    """Write the page whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    write_atomically(path, render_training(report) + "\n")


def _table(report: TrainingReport) -> Html:
    rows = result_rows(report)
    heads = element("tr", *(element("th", name) for name in rows[0]))
    body = []
    looks = run_looks(report)
    for run, row in zip(report.runs, rows, strict=True):
        name, *others = row.values()
        look = looks[run.result.name]
        cells = [
            element("td", swatch(look.marker, look.tone), name, class_="name"),
            *(element("td", value) for value in others),
        ]
        body.append(element("tr", *cells, class_=look.tone, data_s=look.key))
    inside = element("table", element("thead", heads), element("tbody", *body))
    return element("div", inside, class_="scroll", tabindex="0")


def _repeat(report: TrainingReport) -> Html:
    shown = element("div", *(element("pre", command) for command in report.commands), class_="card")
    rows = [element("tr", element("td", name), element("td", value)) for name, value in report.environment]
    return joined([shown, element("h3", "Environment"), element("div", element("table", *rows), class_="scroll")])
