"""The least used expert of every layer, with the loss that balances the load and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from einsearch_cli.reports.chart import Chart, Point, Rule, Series, category_axis, linear_axis
from einsearch_cli.reports.drawing import figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.trial import TrialResult

STARVED = 0.25
"""Share, in units of 1 / experts, below which an expert is marked as starved."""
ROW = 58
"""Height of the row of one run."""


def load_figure(runs: Sequence[tuple[TrialResult, TrialResult | None]], looks: dict[LayerSpec, Identity]) -> Html:
    """One mark per layer of a run, and of the same run without balance loss: the share of its least used expert × experts."""
    rows = [(run, is_ablation) for pair in runs for run, is_ablation in zip(pair, (False, True), strict=True) if run]
    names = [looks[run.trial.structure].short_label + ", no balance loss" * is_ablation for run, is_ablation in rows]
    heights = {float(number): 1.0 for number in reversed(range(len(rows)))}  # the first row is at the top
    y = category_axis("", heights, names[::-1], are_rows=True)
    x = linear_axis("least used expert: share of the slots × number of experts (1 is balanced)", 1.0)
    x = replace(x, ticks=[(tick, f"{tick:g}") for tick in (0.0, STARVED, 0.5, 0.75, 1.0)], has_grid=True)
    series = [
        _series(run, looks[run.trial.structure], name, float(number), is_ablation)
        for number, ((run, is_ablation), name) in enumerate(zip(rows, names, strict=True))
    ]
    chart = Chart(
        x=x,
        y=y,
        series=series,
        rules=[Rule(points=[(STARVED, 0.0)] * 2)],
        width=720,
        height=78 + ROW * len(rows),
        least_left=20,
    )
    return figure("expert-load", "share of the least used expert of every layer, times the number of experts", [chart])


def _series(run: TrialResult, look: Identity, name: str, row: float, is_ablation: bool) -> Series:
    points = [
        Point(
            x=min(layer.smallest_load, 1.0),
            y=row,
            kind="hollow" if is_ablation else "dot",
            tip=f"{name}\n{layer.layer}\nleast used expert {layer.smallest_load:.2f}",
        )
        for layer in run.routing
    ]
    return Series(look=look, points=points)
