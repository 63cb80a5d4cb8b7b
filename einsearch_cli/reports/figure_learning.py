"""Learning curves of the last rung: how each run got to its loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from einsearch_cli.reports.chart import Chart, Line, Series, linear_axis, log_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import flops_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.trial import TrialResult

MOST_POINTS = 48
"""Points drawn per run; more would only make the file larger."""
SKIPPED_SHARE = 0.02
"""The first part of training is not drawn, for runs with many validations: its loss would squeeze everything else."""

_Curve = tuple[tuple[float, float], ...]


def first_share(page: Page) -> float:
    """The share of the training after which the first line of the figure begins; 0 without lines."""
    ends = [curve for curves in _curves(page).values() for curve in curves]
    return min((curve[0][0] / curve[-1][0] for curve in ends), default=0.0)


def learning_figure(page: Page) -> Html | None:
    """Every seed of the structures that stand out, at their best width; None without curves."""
    study, looks = page.study, page.looks
    curves = _curves(page)
    if not curves:
        return None
    rung = study.budgets[-1][0]
    points = [point for some in curves.values() for curve in some for point in curve]
    whole = max(compute for compute, _ in points)
    x = linear_axis(f"share of the {flops_text(whole)} training FLOPs", whole)
    x = replace(x, ticks=[(quarter / 4 * whole, f"{25 * quarter}%") for quarter in range(5)])
    series = [_series(study, looks[item], curves[item]) for item in curves]
    series.sort(key=lambda item: item.look.tone != "ink")
    chart = Chart(x=x, y=log_axis(study.loss_name, [loss for _, loss in points], 0.04), series=series)
    count = sum(map(len, curves.values()))
    return figure("learning", f"{study.loss_name} during training, {count} runs of rung {rung + 1}", [chart])


def _curves(page: Page) -> dict[LayerSpec, list[_Curve]]:
    """The drawn part of each run by structure."""
    curves: dict[LayerSpec, list[_Curve]] = {}
    for result in page.study.results if page.study.budgets else ():
        look, curve = page.looks[result.trial.structure], _drawn_part(result.curve)
        if look.stands_out and len(curve) > 1 and _is_shown(result, look, page.study.budgets[-1][0]):
            curves.setdefault(result.trial.structure, []).append(curve)
    return curves


def _series(study: StudyReport, look: Identity, curves: list[_Curve]) -> Series:
    tip = f"{look.label}\n{look.entry.structure}\n{study.loss_name} at the end: "
    lines = [Line(points=curve, is_thin=True, tip=tip + loss_text(curve[-1][1])) for curve in curves]
    return Series(look=look, lines=lines, name=look.short_label, label=look.short_label)


def _is_shown(result: TrialResult, look: Identity, rung: int) -> bool:
    return result.status == "ok" and result.trial.rung == rung and result.trial.width == look.entry.width


def _drawn_part(curve: _Curve) -> _Curve:
    """Finite positive losses after the very start, thinned; the last point is always kept."""
    usable = [(c, loss) for c, loss in curve if math.isfinite(loss) and loss > 0 and math.isfinite(c)]
    if not usable:
        return ()
    kept = [point for point in usable if point[0] >= SKIPPED_SHARE * usable[-1][0]]
    stride = -(-len(kept) // MOST_POINTS)
    return tuple(reversed(kept[::-1][::stride]))
