"""The section on a search: the structures it tried, their losses over ω, ψ and ν, and the Pareto front with costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from einsearch_cli.reports.chart import Chart, Point, Series, linear_axis, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.figure_taxonomy import PANELS
from einsearch_cli.reports.looks import Look
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import MISSING, duration_text, flops_text, loss_text
from einsearch_cli.reports.page import Page, fill
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.table import Row, number, structure, table, without_constants
from einsearch_cli.scaling import is_finished
from einsearch_cli.structures import LayerSpec, expert_of, short_name
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.training.proxy.trial import TrialResult

_TALLEST = 1.5
"""End of the axis as a multiple of the highest loss of a found or given structure; other proposals may be far worse."""


def search_section(page: Page) -> Html | None:
    """Every run of the search over ω, ψ and ν, with what it did in numbers; None where candidates were given."""
    study, found = page.study, page.study.exploration
    if found is None:
        return None
    caption = (
        f"Each mark is a run of the search ({found.runs} runs, sampler {found.sampler}, up to {found.factors} factors) on the "
        f"cheapest rung, one seed unless the structure was among the best. {found.pruned:,} points of the space failed the "
        f"pruning criteria and were not trained; {found.repeated:,} proposals were networks that had been trained, and cost "
        "nothing. These runs chose candidates; the ranking is made from others. Exponents are those asked for: a narrow "
        "network rounds many of them to the same whole sizes."
    )
    drawing = search_figure(study)
    return None if drawing is None else fill("figure.html", drawing=drawing, caption=caption)


def search_figure(study: StudyReport) -> Html | None:
    """Loss of all runs of the search against ω, ψ and ν, as far as these differ; None without a finished run."""
    finished = [result for result in study.explored if is_finished(result)]
    if not finished or study.exploration is None:
        return None
    given = {entry.structure for entry in study.ranking.entries} - set(study.exploration.found)
    groups: tuple[tuple[str, Look, list[TrialResult]], ...] = (
        ("found", Look("found", "c1", "circle"), [r for r in finished if r.trial.structure in study.exploration.found]),
        ("given", Look("given", "ink", "square"), [r for r in finished if r.trial.structure in given]),
        ("proposed", Look("proposed", "quiet", "circle"), []),
    )
    named = {id(result) for _, _, some in groups for result in some}
    groups[2][2].extend(result for result in finished if id(result) not in named)
    main = [_loss(result) for _, _, some in groups[:2] for result in some] or [min(map(_loss, finished))]
    losses = [loss for loss in map(_loss, finished) if loss <= _TALLEST * max(main)]
    y = log_axis(f"{study.loss_name} (log scale)", losses, 0.08)
    charts = []
    for field, title, hint in PANELS:
        values = [_exponent(result.trial.structure, field) for result in finished]
        if len(set(values)) == 1:
            continue
        charts.append(
            Chart(
                x=linear_axis(hint, max(1.0, *values) * 1.04),
                y=y,
                series=[
                    Series(look=look, name=name, points=[_point(study, result, field) for result in some])
                    for name, look, some in groups
                    if some
                ],
                panel=field,
                title=title,
                width=360,
            )
        )
    if not charts:
        return None
    return figure("search", f"{study.loss_name} of {len(finished)} runs of a search against omega, psi and nu", charts)


def _loss(result: TrialResult) -> float:
    assert result.loss is not None
    return result.loss


def _exponent(item: LayerSpec, field: str) -> float:
    return float(getattr(taxonomy_of(expert_of(item)), field))


def _point(study: StudyReport, result: TrialResult, field: str) -> Point:
    known = taxonomy_of(expert_of(result.trial.structure))
    tip = "\n".join((
        short_name(result.trial.structure),
        f"ω = {known.omega}, ψ = {known.psi}, ν = {known.nu}",
        f"{study.loss_name}: {loss_text(_loss(result))}",
        f"width {result.trial.width}, seed {result.trial.seed}",
    ))  # fmt: skip
    return Point(x=_exponent(result.trial.structure, field), y=_loss(result), tip=tip, radius=4.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """A structure at its best width of a rung, with its costs and its loss."""

    structure: LayerSpec
    rung: int
    loss: float
    total_flops: float
    seconds: float | None
    """None where no step was timed."""


_EQUAL: Final = 1.02
"""Costs within this factor count as equal: budgets are not spent to the last FLOP."""


def pareto_front(study: StudyReport) -> list[Spent]:
    """The rows of the ranking that no other one beats in loss, total FLOPs and seconds together, cheapest first."""
    steps: dict[tuple[LayerSpec, int, int], list[int]] = {}
    for result in study.results:
        if is_finished(result):
            trial = result.trial
            steps.setdefault((trial.structure, trial.rung, trial.width), []).append(result.steps)
    spent = []
    for item, found in study.surfaces.items():
        for minimum in found.minima:
            best, rung = minimum.best, minimum.level.rung
            step_s = study.step_seconds.get((item, best.width))
            seconds = None if step_s is None else step_s * fmean(steps[item, rung, best.width])
            spent.append(Spent(item, rung, minimum.loss, fmean(run.total for run in best.runs), seconds))
    return sorted((one for one in spent if not any(_beats(other, one) for other in spent)), key=lambda s: s.total_flops)


def _beats(one: Spent, other: Spent) -> bool:
    """Whether one is at least as good in all three and better in one; unknown costs are not compared."""
    costs = [(one.total_flops, other.total_flops)]
    if one.seconds is not None and other.seconds is not None:
        costs.append((one.seconds, other.seconds))
    no_worse = one.loss <= other.loss and all(mine <= _EQUAL * theirs for mine, theirs in costs)
    return no_worse and (one.loss < other.loss or any(_EQUAL * mine < theirs for mine, theirs in costs))


def pareto_section(page: Page) -> Html | None:
    """The Pareto front as a table; None where candidates were given."""
    front: Sequence[Spent] = pareto_front(page.study) if page.study.exploration is not None else ()
    if not front:
        return None
    heads = ("structure", "rung", "loss", "total FLOPs", "time")
    rows = [
        Row(
            cells=[
                structure(one.structure, page.looks[one.structure]),
                number(str(one.rung + 1)),
                number(loss_text(one.loss)),
                number(flops_text(one.total_flops)),
                number(MISSING if one.seconds is None else duration_text(one.seconds)),
            ],
            look=page.looks[one.structure],
        )
        for one in front
    ]
    caption = (
        "No other structure, at any budget, has a lower loss for as few total FLOPs and seconds as one of these rows. Total "
        "FLOPs have embeddings and head in; time is steps times a timed step on this machine."
    )
    shown, rows, constants = without_constants(heads, rows, keep=("structure", "loss"))
    return table(shown, rows, heads[1:], caption=" ".join([caption, *constants]))
