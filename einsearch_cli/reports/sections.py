"""The sections of the report around the ranking table, in the order of the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.confirmation_section import confirmation_section
from einsearch_cli.reports.coordinates_section import coordinates_section
from einsearch_cli.reports.costs_section import costs_section, widths_table
from einsearch_cli.reports.experts_section import experts_section
from einsearch_cli.reports.figure_compute import compute_figure
from einsearch_cli.reports.figure_learning import first_share, learning_figure
from einsearch_cli.reports.figure_overtraining import overtraining_figure
from einsearch_cli.reports.figure_parameters import parameters_figure
from einsearch_cli.reports.figure_taxonomy import constant_exponents, taxonomy_figure
from einsearch_cli.reports.figure_trend import trend_figure
from einsearch_cli.reports.figure_widths import widths_figure
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.law_section import law_section
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import NOTHING, Html, joined
from einsearch_cli.reports.numbers import (
    MISSING,
    count_text,
    duration_text,
    factor_text,
    flops_text,
    interval_text,
    widths_text,
)
from einsearch_cli.reports.page import (
    Page as Page,
    fill,
    render_page,
    report_section as report_section,
    report_sections as report_sections,
)
from einsearch_cli.reports.ranking_section import comparison_section, ranking_section
from einsearch_cli.reports.rates_section import rates_section
from einsearch_cli.reports.search_section import pareto_section, search_section
from einsearch_cli.reports.spending_facts import seeds_text, spending_facts, spending_sentences
from einsearch_cli.reports.structure_cards import DRAWN_WIDTH, Shown, structure_cards
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.table import Cell, Row, number, structure, table
from einsearch_cli.scaling import Trend, is_finished
from einsearch_cli.scaling.exponents import ExponentEffects
from einsearch_cli.search.setup import study_file
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.trial import Trial

MOST_FAILURES = 100
"""The most rows of failed runs; the rest is only counted."""
LONGEST_ERROR = 600
"""The most characters of an error that are shown."""


@report_section("result", "Result")
def result_section(page: Page) -> Html:
    """The findings in sentences."""
    return fill("findings.html", sentences=headline(page.study))


@report_section("setup", "What was trained")
def setup_section(page: Page) -> Html | None:
    """Task, data, network and optimizer in plain words, and what repeats the study."""
    study = page.study
    facts = {**study.setup, **_rates_shown(study), **_steps(study)}
    if not facts and not study.commands:
        return None
    notes = (
        [] if study.setup else ["An earlier version wrote these results, without the settings of task and optimizer."]
    )
    file = study_file(study.spec) if study.spec else ""
    return fill(
        "setup.html",
        facts=facts,
        notes=notes,
        commands=study.commands,
        file=file,
        file_name=f"The study file: all settings, for einsearch {study.command}",
    )


def _rates_shown(study: StudyReport) -> dict[str, str]:
    """Which learning rate this report means, for a reader who trains with a program of their own."""
    if "Learning rate" not in study.setup:
        return {}
    return {
        "Rates shown": "Base rates: those of a dense layer at the width that 'Learning rate' names. muP multiplies them for "
        "other widths and for factors; in your own training program, optimizer_groups(model, lr) does so for factors."
    }


def _steps(study: StudyReport) -> dict[str, str]:
    """How long runs were, from the runs."""
    runs = [result for result in study.results if is_finished(result)]
    if not runs:
        return {}
    steps, tokens = [result.steps for result in runs], [result.tokens for result in runs if result.tokens]
    batches = {round(result.tokens / result.steps) for result in runs if result.tokens and result.steps}
    batch = f", {batches.pop():,} tokens or samples each" if len(batches) == 1 and "Batch" not in study.setup else ""
    seen = f"; {count_text(min(tokens))} to {count_text(max(tokens))} tokens or samples in all" if tokens else ""
    return {"Steps": f"{min(steps):,} to {max(steps):,} optimizer steps a run{batch}, as the budget pays for{seen}."}


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
        ("Widths", widths_text(trial.width for trial in trials)),
        ("Seeds", seeds_text(study)),
        ("Runs of the ranking", runs),
        *spending_facts(study),
        ("Time of all runs, added up", duration_text(ran_s)),
    )
    said = (
        "Every run of a budget is given the same training FLOPs (embeddings and head not counted), whatever its "
        "structure and width: a cheaper layer takes more steps or a wider network, a costlier one fewer."
    )
    counted = (
        "The ranking uses runs at each structure's own rate. What is planned and spent also counts runs that look for "
        "rates and the confirmation. Times are added up over all runs as if one worker had trained them one after another; "
        "several workers took less."
    )
    return fill(
        "facts.html", facts=facts, notes=(said, counted, *spending_sentences(study), *study.notes, *study.warnings)
    )


report_section("ranking", "Ranking")(ranking_section)
report_section("confirmation", "The confirmation, run by run")(confirmation_section)
report_section("baselines", "Against the other baselines")(comparison_section)


def _captioned(drawing: Html | None, caption: str, *below: Html) -> Html | None:
    """A figure over its caption and what belongs to it; None where there is nothing to draw."""
    return None if drawing is None else joined([fill("figure.html", drawing=drawing, caption=caption), *below])


@report_section("scaling", "Loss against training compute")
def scaling_section(page: Page) -> Html | None:
    """The loss–compute plot."""
    several = len(page.study.budgets) > 1
    reading = (
        "Lower is better. Each line joins the best width of a structure at each budget; the numbers are ranks."
        if several
        else "Lower is better. Each structure has its own column at the one budget; the numbers are ranks."
    )
    sentences = [
        reading,
        "Vertical bars are 95% intervals. A hollow mark stands at the best width tried, where the optimum was not found.",
        "The thick line is the yardstick, grey are structures further down the ranking.",
        "For details point at a mark, tap it, or use the arrow keys.",
    ]
    if several:
        sentences.append("Marks at one budget are moved sideways a little so that they do not hide each other.")
        sentences.append("The compute gain in the table is read off parabolas through these points.")
    return _captioned(compute_figure(page), " ".join(sentences))


@report_section("parameters", "Loss against parameters")
def parameters_section(page: Page) -> Html | None:
    """The loss that a model of a given size reaches."""
    caption = (
        "One panel for each budget. Dots are best widths with the 95% interval of their mean loss; faint marks are the other "
        "widths, and an arrow at the edge stands for one that lies outside. Grey are structures further down the "
        "ranking. Lower left is better: a small network with a low loss. All runs of a panel were given the same training FLOPs."
    )
    return _captioned(parameters_figure(page), caption)


report_section("costs", "Seconds, FLOPs and seeds")(costs_section)


@report_section("widths", "Loss against the width of the network")
def widths_section(page: Page) -> Html | None:
    """Isoflop curves: is the best width in the middle of what was tried, and where does it move to?"""
    widths = {run.width for run in page.study.observations}
    if len(widths) < 2:
        return fill("caption.html", caption=f"All networks are {widths.pop()} wide.") if widths else None
    caption = (
        "One panel for each budget: runs of one budget differ in width, so that narrow networks see more data. "
        "Dots are means over seeds, faint marks single runs that looked for the best width, hollow marks the lowest "
        "point of the fitted parabola. A structure whose lowest dot is the first or last of its line has no optimum here. "
        "Every panel has a loss axis of its own; an arrow at its edge stands for a single run that lies outside."
    )
    return _captioned(widths_figure(page), caption, *filter(None, [widths_table(page)]))


@report_section("overtraining", "Training one network for longer")
def overtraining_section(page: Page) -> Html | None:
    """Overtraining: loss against tokens per parameter at constant width."""
    caption = (
        "Each line is one width, trained with several budgets. Networks that are used a lot are trained past the width "
        "that is best for their training FLOPs: about 20 tokens per parameter for large dense transformers (Hoffmann et al. "
        "2022). A line that flattens early gains little from more tokens."
    )
    return _captioned(overtraining_figure(page), caption)


report_section("rates", "Learning rates")(rates_section)
report_section("coordinates", "Outputs of layers over width")(coordinates_section)


@report_section("trend", "How the gain changes with compute")
def trend_section(page: Page) -> Html | None:
    """The gain at every rung, and the slope in words."""
    heads = ("structure", "trend", "factor per decade", "p")
    rows = [
        Row(cells=_trend_cells(look, look.entry.trend), look=look)
        for look in page.looks.values()
        if look.entry.trend is not None and look.entry.trend.per_decade is not None
    ]
    caption = (
        "The compute gain over the yardstick at the loss that both reach with each budget, with its 95% interval. "
        "'Rising' and 'falling' are said where the slope differs from none at the 5% level, all candidates together "
        "(Holm 1979)."
    )
    return _captioned(trend_figure(page), caption, table(heads, rows, heads[2:]))


def _trend_cells(look: Identity, found: Trend) -> list[Cell]:
    interval = "" if found.low is None or found.high is None else interval_text(found.low, found.high)
    return [
        structure(look.entry.structure, look),
        Cell(text=found.word),
        number(factor_text(found.per_decade), interval),
        number(MISSING if found.p_value is None else f"{found.p_value:.2g}"),
    ]


report_section("law", "Scaling laws")(law_section)


@report_section("taxonomy", "What ω, ψ and ν have to do with it")
def taxonomy_section(page: Page) -> Html | None:
    """The three panels and how to read the exponents."""
    drawing = taxonomy_figure(page)
    constants = [f"All structures have {said}, which is not drawn." for said in constant_exponents(page.study).values()]
    if drawing is None or page.study.common_rung is None:
        return joined(
            [fill("findings.html", sentences=constants[:3]) if constants else NOTHING, fill("exponents.html")]
        )
    budget = flops_text(page.study.common_rung[1])
    sentences = (
        f"Each disc is a structure, named by its rank, at its loss with {budget} training FLOPs:",
        "the largest budget that all structures were trained with. Dashed lines are medians of a column.",
        "Exponents are spaced evenly, not to scale; the loss is on a log scale.",
        *constants,
    )
    parts = [fill("figure.html", drawing=drawing, caption=" ".join(sentences)), fill("exponents.html")]
    return joined(
        parts if page.study.exponent_effects is None else [*parts, _effects_table(page.study.exponent_effects)]
    )


def _effects_table(found: ExponentEffects) -> Html:
    """Rank correlations and joint fits, a row for each exponent and rung."""
    heads = ("exponent", "training FLOPs", "rank correlation", "p", "log loss per unit", "change per decade")
    trends = {trend.exponent: trend for trend in found.trends}
    rows = []
    for name in [effect.exponent for effect in found.rungs[-1].effects]:
        for rung in found.rungs:
            effect = next(effect for effect in rung.effects if effect.exponent == name)
            trend = trends.get(name) if rung is found.rungs[-1] else None
            cells = (
                Cell(text=name),
                number(flops_text(rung.budget_flops)),
                number(f"{effect.correlation:+.2f}", _signed(effect.correlation_low, effect.correlation_high)),
                number(f"{effect.correlation_p:.2g}"),
                number(f"{effect.slope:+.2f}", _signed(effect.slope_low, effect.slope_high)),
                number(f"{trend.per_decade:+.2f}", _signed(trend.low, trend.high)) if trend else number(MISSING),
            )
            rows.append(Row(cells=cells))
    explained = ", ".join(f"{rung.explained:.0%}" for rung in found.rungs)
    caption = (
        f"Do the exponents predict the loss of these {found.rungs[0].structures} structures? Correlation: Spearman's, of one "
        "exponent by itself. Log loss per unit: from a fit of all exponents together; +0.1 is 10% more loss for each unit. It "
        f"explains {explained} of the variance, in-sample. Bond: sum of the exponents of bonds. Brackets are 95% intervals, "
        "by drawing structures with replacement. The structures of a study are not a random sample."
    )
    return table(heads, rows, heads[1:], caption=caption)


def _signed(low: float, high: float) -> str:
    return f"[{low:+.2f}, {high:+.2f}]"


report_section("search", "Where the search looked")(search_section)
report_section("pareto", "Loss, FLOPs and seconds: the Pareto front")(pareto_section)
report_section("experts", "Load of the experts")(experts_section)


@report_section("learning", "Learning curves")
def learning_section(page: Page) -> Html | None:
    """Loss during training in the last rung."""
    drawing = learning_figure(page)
    caption = "One line per seed, at the best width, with the largest budget. The loss is on a log scale."
    return _captioned(drawing, f"{caption} Lines begin after {first_share(page):.0%} of the training.")


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
    rows = [_failure(page, *key, trials) for key, trials in list(groups.items())[:MOST_FAILURES]]
    left = sum(len(trials) for trials in list(groups.values())[MOST_FAILURES:])
    more = f" {left} more are listed in results.json." if left else ""
    heads = ("structure", "runs", "widths", "seeds", "rungs", "what happened")
    return table(heads, rows, caption="These runs are left out of every mean above." + more)


def _failure(page: Page, item: LayerSpec, status: str, error: str, trials: Sequence[Trial]) -> Row:
    shown = error if len(error) <= LONGEST_ERROR else error[:LONGEST_ERROR] + " …"
    texts = (
        str(len(trials)),
        _listed(trial.width for trial in trials),
        _listed(trial.seed for trial in trials),
        _listed(trial.rung + 1 for trial in trials),
    )
    cells = [structure(item), *(Cell(text=text) for text in texts), Cell(text=status, below=shown, kind="error")]
    return Row(cells=cells, look=page.looks.get(item))


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


@report_section("structures", "The structures")
def structures_section(page: Page) -> Html | None:
    """A card for each structure; tables lead here."""
    widths = {run.trial.structure: run.trial.width for run in page.study.results}  # of those without a finished run
    shown = [Shown(item, look, look.entry.width or widths.get(item, DRAWN_WIDTH)) for item, look in page.looks.items()]
    return structure_cards(shown) if shown else None


@report_section("environment", "Environment")
def environment_section(page: Page) -> Html | None:
    """Versions and processor."""
    study = page.study
    return fill("environment.html", environment=study.environment) if study.environment else None


def render_report(study: StudyReport) -> str:
    """The report as one HTML document that loads nothing from anywhere."""
    return render_page("rank", study.title, Page(study), study.command)


def write_report(path: str | os.PathLike[str], study: StudyReport) -> None:
    """Write the report whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    write_atomically(path, render_report(study) + "\n")
