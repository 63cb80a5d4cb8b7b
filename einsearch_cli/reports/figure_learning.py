"""Learning curves of the last rung: how each run got to its loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from einsearch_cli.reports.identity import Identity
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import flops_text, loss_text
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    figure,
    log_ticks,
    padded_range,
    polyline,
    spread_apart,
    text,
    x_tick,
    y_tick,
)
from einsearch_cli.reports.study import StudyReport
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.search.trial import TrialResult

WIDTH, HEIGHT = 1040, 380
LEFT, RIGHT, TOP, BOTTOM = 74, 250, 14, 56
LABEL_GAP = 17.0
MOST_POINTS = 48
"""Points drawn per run; more would only make the file larger."""
SKIPPED_SHARE = 0.02
"""The first part of training is not drawn: the untrained loss would squeeze everything else."""

_Curve = tuple[tuple[float, float], ...]


def learning_figure(study: StudyReport, looks: dict[LayerSpec, Identity]) -> Html | None:
    """Every seed of the structures that stand out, at their best width; None without curves."""
    if not study.budgets:
        return None
    rung = study.budgets[-1][0]
    curves: list[tuple[LayerSpec, _Curve]] = []
    for result in study.results:
        structure = result.trial.structure
        if looks[structure].stands_out and _is_shown(result, looks[structure], rung):
            curve = _drawn_part(result.curve)
            if len(curve) > 1:
                curves.append((structure, curve))
    if not curves:
        return None
    everything = [point for _, curve in curves for point in curve]
    x = Scale(0.0, max(compute for compute, _ in everything), LEFT, WIDTH - RIGHT - 10, logarithmic=False)
    y = Scale(*padded_range([loss for _, loss in everything], 0.04), HEIGHT - BOTTOM, TOP)
    curves.sort(key=lambda pair: looks[pair[0]].tone == "ink")
    return figure(
        "learning",
        WIDTH,
        HEIGHT,
        f"{study.loss_name} during training, {len(curves)} runs of rung {rung + 1}",
        _axes(study, x, y),
        *(_line(curve, x, y, looks[structure], study) for structure, curve in curves),
        _labels(curves, x, y, looks),
    )


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


def _axes(study: StudyReport, x: Scale, y: Scale) -> Html:
    right, bottom = float(WIDTH - RIGHT), float(HEIGHT - BOTTOM)
    parts: list[str] = []
    for tick in log_ticks(y.low, y.high):
        parts.append(element("line", x1=float(LEFT), x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(y_tick(f"{tick:g}", tick, LEFT - 10.0, y(tick)))
    for quarter in range(5):
        value = quarter / 4 * x.high
        parts.append(x_tick(f"{25 * quarter}%", value, x(value), bottom + 20))
    parts.append(element("line", x1=float(LEFT), x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(
        text(
            f"share of the {flops_text(x.high)} training FLOPs",
            (LEFT + right) / 2,
            HEIGHT - 10.0,
            class_="axis-name middle",
        )
    )
    turned = f"translate(16 {(TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(text(study.loss_name, 0, 0, class_="axis-name middle", transform=turned))
    return joined(parts)


def _line(curve: _Curve, x: Scale, y: Scale, look: Identity, study: StudyReport) -> Html:
    tip = f"{look.label}\n{look.entry.structure}\n{study.loss_name} at the end: {loss_text(curve[-1][1])}"
    carried = data_of(x=[compute for compute, _ in curve], y=[loss for _, loss in curve])
    path = polyline([(x(compute), y(loss)) for compute, loss in curve], class_="line thin", data_tip=tip, **carried)
    return element("g", path, class_=f"series {look.tone}", data_s=look.key)


def _labels(curves: list[tuple[LayerSpec, _Curve]], x: Scale, y: Scale, looks: dict[LayerSpec, Identity]) -> Html:
    ends: dict[LayerSpec, list[float]] = {}
    for structure, curve in curves:
        ends.setdefault(structure, []).append(y(curve[-1][1]))
    wanted = [sum(heights) / len(heights) for heights in ends.values()]
    placed = spread_apart(wanted, LABEL_GAP, TOP + 6.0, HEIGHT - BOTTOM - 4.0)
    parts: list[str] = []
    column = x.end + 22
    for structure, height, label_height in zip(ends, wanted, placed, strict=True):
        look = looks[structure]
        leader = polyline([(x.end + 2, height), (column - 4, label_height)], class_="leader")
        label = text(look.short_label, column, label_height + 4, class_="label")
        parts.append(element("g", leader, label, class_=f"series {look.tone}", data_s=look.key))
    return joined(parts)
