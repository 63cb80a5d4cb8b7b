"""The sections of the report around the ranking table, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from einsearch_cli.reports.comparison_section import comparison_section
from einsearch_cli.reports.experts_section import experts_section
from einsearch_cli.reports.figure_compute import compute_figure
from einsearch_cli.reports.figure_learning import learning_figure
from einsearch_cli.reports.figure_taxonomy import constant_exponents, taxonomy_figure
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import duration_text, flops_text
from einsearch_cli.reports.page import Page, report_section
from einsearch_cli.reports.ranking_section import ranking_section, structure_cell
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.search.trial import Trial

MOST_FAILURES = 100
"""Rows of failed runs; the rest is only counted."""
LONGEST_ERROR = 600
"""Characters of an error that are shown."""


def caption(*sentences: str) -> Html:
    return element("p", " ".join(sentences), class_="caption")


@report_section("result", "Result")
def result_section(page: Page) -> Html:
    """The findings in sentences."""
    first, *rest = headline(page.study)
    return joined([element("p", first, class_="lead"), *(element("p", sentence) for sentence in rest)])


@report_section("facts", "What was compared")
def facts_section(page: Page) -> Html:
    """Task, budgets, widths, seeds, runs and time as a row of tiles."""
    study = page.study
    trials = [result.trial for result in study.results]
    failed = sum(entry.runs_failed for entry in study.ranking.entries)
    runs = f"{len(trials)} ({failed} failed)" if failed else str(len(trials))
    if study.unbalanced:
        runs += f" + {len(study.unbalanced)} without balance loss"
    ran_s = sum(result.elapsed_s for result in study.all_runs)
    facts = (
        ("Task", study.task),
        ("Structures", str(len(study.structures))),
        ("Training FLOPs per run", " → ".join(flops_text(budget) for _, budget in study.budgets) or "–"),
        ("Widths", _listed(trial.width for trial in trials) or "–"),
        ("Seeds", str(len({trial.seed for trial in trials}))),
        ("Runs", runs),
        ("Time of all runs", duration_text(ran_s)),
    )
    tiles = [
        element("div", element("dt", name), element("dd", value), class_="wide" if len(value) > 14 else None)
        for name, value in facts
    ]
    said = caption(
        "Every run of a budget is given the same training FLOPs (embeddings and head not counted), whatever its",
        "structure and width: a cheaper layer takes more steps or a wider network, a costlier one fewer.",
    )
    notes = [element("p", note, class_="caption") for note in study.notes]
    return joined([element("dl", *tiles, class_="facts"), said, *notes])


report_section("ranking", "Ranking")(ranking_section)
report_section("baselines", "Against the other baselines")(comparison_section)


@report_section("scaling", "Loss against training compute")
def scaling_section(page: Page) -> Html | None:
    """The loss–compute plot."""
    drawing = compute_figure(page.study, page.looks)
    if drawing is None:
        return None
    several = len(page.study.budgets) > 1
    reading = (
        "Lower is better. Each line joins the best width of a structure at each budget; the numbers are ranks."
        if several
        else "Lower is better. Each structure has its own column at the one budget; the numbers are ranks."
    )
    return joined([
        drawing,
        caption(
            reading,
            "Vertical bars are 95% intervals over seeds, small faint marks the other widths, where they are within the figure.",
            "The thick line is the yardstick, grey are structures further down the ranking.",
            "For details point at a mark, tap it, or use the arrow keys.",
            "Marks at one budget are moved sideways a little so that they do not hide each other." if several else "",
            "The compute gain in the table is read off the lower convex hull of these points." if several else "",
        ),
    ])  # fmt: skip


@report_section("taxonomy", "What ω, ψ and ν have to do with it")
def taxonomy_section(page: Page) -> Html | None:
    """The three panels and how to read the exponents."""
    drawing = taxonomy_figure(page.study, page.looks)
    if drawing is None or page.study.common_rung is None:
        return _reading()
    budget = flops_text(page.study.common_rung[1])
    return joined([
        drawing,
        caption(
            f"Each disc is a structure, named by its rank, at its loss with {budget} training FLOPs:",
            "the largest budget that all structures were trained with. Dashed lines are medians of a column.",
            "Exponents are spaced evenly, not to scale; the loss is on a log scale.",
            *(f"All structures have {said}, which is not shown." for said in constant_exponents(page.study).values()),
        ),
        _reading(),
    ])  # fmt: skip


def _reading() -> Html:
    texts = (
        (
            "ω — parameter sharing",
            "FLOPs per parameter grow as d^ω with the width d. At ω = 0 every FLOP goes to a parameter of its own, as "
            "in a dense layer; Kronecker products and tensor trains use each parameter many times, so ω > 0.",
        ),
        (
            "ψ — rank",
            "The rank of the matrix grows as d^ψ. At ψ = 1 it has full rank; a low-rank layer with r = √d has ψ = 1/2.",
        ),
        (
            "ν — cost",
            "FLOPs per token grow as d^(1+ν). Dense layers have ν = 1; the smaller ν, the wider a network the same "
            "FLOPs can pay for.",
        ),
    )
    cards = [element("div", element("h3", name), element("p", said), class_="card") for name, said in texts]
    source = caption(
        "Potapczynski et al. (NeurIPS 2024, arXiv 2410.02117) define the three exponents and report that small ω and",
        "large ψ scale best, while ν hardly matters once ω = 0 and ψ = 1.",
        "The panels above show the structures of this study only, which is too few to test that.",
    )
    return joined([element("h3", "How to read ω, ψ and ν"), element("div", *cards, class_="columns"), source])


report_section("experts", "Load of the experts")(experts_section)


@report_section("learning", "Learning curves")
def learning_section(page: Page) -> Html | None:
    """Loss during training in the last rung."""
    drawing = learning_figure(page.study, page.looks)
    if drawing is None:
        return None
    return joined([
        drawing,
        caption(
            "One line per seed, at the best width, with the largest budget.",
            "The loss is on a log scale; the first 2% of training are not drawn.",
        ),
    ])  # fmt: skip


@report_section("failures", "Runs that failed")
def failures_section(page: Page) -> Html | None:
    """Every run that diverged or crashed with its error; runs that failed alike share a row."""
    groups: dict[tuple[LayerSpec, str, str], list[Trial]] = {}
    for result in page.study.all_runs:
        if result.status != "ok":
            key = (result.trial.structure, result.status, result.error or "no message")
            groups.setdefault(key, []).append(result.trial)
    if not groups:
        return None
    names = ("structure", "runs", "widths", "seeds", "rungs", "what happened")
    rows = [_failure(page, *key, trials) for key, trials in list(groups.items())[:MOST_FAILURES]]
    heads = element("thead", element("tr", *(element("th", name) for name in names)))
    table = element("div", element("table", heads, element("tbody", *rows)), class_="scroll", tabindex="0")
    left = sum(len(trials) for trials in list(groups.values())[MOST_FAILURES:])
    more = f" {left} more are listed in results.json." if left else ""
    return joined([table, caption("These runs are left out of every mean above." + more)])


def _failure(page: Page, structure: LayerSpec, status: str, error: str, trials: Sequence[Trial]) -> Html:
    shown = error if len(error) <= LONGEST_ERROR else error[:LONGEST_ERROR] + " …"
    return element(
        "tr",
        structure_cell(structure),
        element("td", len(trials)),
        element("td", _listed(trial.width for trial in trials)),
        element("td", _listed(trial.seed for trial in trials)),
        element("td", _listed(trial.rung + 1 for trial in trials)),
        element("td", element("b", status), element("pre", shown)),
        data_s=page.looks[structure].key,
    )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


@report_section("repeat", "Repeat it")
def repeat_section(page: Page) -> Html | None:
    """Commands and environment."""
    study = page.study
    parts: list[str] = []
    if study.commands:
        parts.append(element("div", element("pre", "\n".join(study.commands)), class_="card"))
    if study.environment:
        rows = [element("tr", element("td", name), element("td", value)) for name, value in study.environment]
        parts.append(element("h3", "Environment"))
        parts.append(element("div", element("table", element("tbody", *rows)), class_="scroll"))
    return joined(parts) if parts else None
