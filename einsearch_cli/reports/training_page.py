"""The report of `einsearch train` as one offline HTML page."""

from __future__ import annotations

import yaml

from einsearch_cli.reports.figure_run_parameters import run_parameters_figure
from einsearch_cli.reports.figure_training import FLOPS, STEPS, run_looks, training_figure
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import time_text
from einsearch_cli.reports.page import fill, render_page, report_section
from einsearch_cli.reports.plot import swatch
from einsearch_cli.reports.structure_cards import DRAWN_WIDTH, Shown, known_layer, structure_cards
from einsearch_cli.reports.table import Cell, Row, card_id, number, table, without_constants
from einsearch_cli.reports.training import TrainingReport, result_rows, training_findings
from einsearch_cli.reports.training_setup import settings_of_runs, training_setup
from einsearch_cli.structures import LayerSpec

_READING = (
    "FLOPs are 3 × forward, guides, embeddings and head included; activations computed again are not counted. "
    "Guided steps have a dense guide for every structured layer; with matched FLOPs their tokens come again at the end."
)


@report_section("result", "Result", page="train")
def result_section(report: TrainingReport) -> Html:
    """The findings in sentences."""
    return fill("findings.html", sentences=training_findings(report))


@report_section("setup", "What was trained", page="train")
def setup_section(report: TrainingReport) -> Html:
    """Data, network and optimizer in plain words, and what repeats the runs."""
    file = yaml.safe_dump(settings_of_runs(report), sort_keys=False, allow_unicode=True)
    return fill(
        "setup.html",
        facts=training_setup(report),
        notes=(),
        commands=report.commands,
        file=file,
        file_name="All settings that decide the weights, as a training file has them",
    )


@report_section("runs", "Runs", page="train")
def runs_section(report: TrainingReport) -> Html:
    """One row for each run."""
    looks, rows = run_looks(report), []
    cards = {item.spec: item.look for item in _cards(report)}
    links = {
        run.result.structure: cards.get(spec) for run in report.runs if (spec := known_layer(run.result.structure))
    }
    texts = result_rows(report)
    for run, row in zip(report.runs, texts, strict=True):
        look, result = looks[run.result.name], run.result
        row |= {
            "a step": time_text(result.elapsed_s / result.steps),
            "tokens/s": f"{result.tokens / result.elapsed_s:,.0f}",
        }
        cells = [
            Cell(text=text, kind="name", drawing=swatch(look.marker, look.tone))
            if head == "run"
            else Cell(text=text, link=card_id(links.get(result.structure)))
            if head == "structure"
            else number(text)
            for head, text in row.items()
        ]
        rows.append(Row(cells=cells, look=look))
    heads, rows, constants = without_constants(
        tuple(texts[0]), rows, keep=("run", "structure", "held-out loss", "time")
    )
    seeds = "One run each: the spread between seeds is not known. A step: wall time over steps, validation included."
    caption = " ".join([f"Trained on {report.data}.", _READING, seeds, *constants])
    return table(heads, rows, numbers=set(heads) - {"run", "structure"}, caption=caption)


def _cards(report: TrainingReport) -> list[Shown]:
    """Every structure once, with the look of its first run and the width of its network."""
    looks = run_looks(report)
    found: dict[LayerSpec, Shown] = {}
    for run in report.runs:
        spec, width = known_layer(run.result.structure), run.result.spec["model"].get("width", DRAWN_WIDTH)
        if spec is not None and spec not in found:
            found[spec] = Shown(spec, looks[run.result.name], width)
    return list(found.values())


@report_section("flops", "Held-out loss against training FLOPs", page="train")
def flops_section(report: TrainingReport) -> Html | None:
    """The curves over training FLOPs."""
    return training_figure(report, FLOPS)


@report_section("steps", "Held-out loss against steps", page="train")
def steps_section(report: TrainingReport) -> Html | None:
    """The curves over optimizer steps."""
    return training_figure(report, STEPS)


@report_section("parameters", "Held-out loss against parameters", page="train")
def parameters_section(report: TrainingReport) -> Html | None:
    """The loss that a model of a given size reaches."""
    drawing = run_parameters_figure(report)
    caption = "Lower left is better. One run each, so there are no intervals; FLOPs and steps of the runs may differ."
    return None if drawing is None else fill("figure.html", drawing=drawing, caption=caption)


@report_section("structures", "The structures", page="train")
def structures_section(report: TrainingReport) -> Html | None:
    """A card for each structure; the table leads here."""
    cards = _cards(report)
    return structure_cards(cards) if cards else None


@report_section("environment", "Environment", page="train")
def environment_section(report: TrainingReport) -> Html | None:
    """Versions and processor."""
    return fill("environment.html", environment=report.environment) if report.environment else None


def render_training(report: TrainingReport) -> str:
    """The page of runs that have finished."""
    return render_page("train", report.title, report)
