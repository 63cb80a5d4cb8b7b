"""The least used expert of every layer, with the loss that balances the load and without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from einsearch_cli.reports.identity import Identity
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.plot import Scale, data_of, figure, mark, swarm, text, x_tick
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.search.trial import TrialResult

STARVED = 0.25
"""Share, in units of 1 / experts, below which an expert is marked as starved."""
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1040, 360, 24, 14, 58
ROW = 46.0
"""Height of the row of one run."""
RADIUS = 5.0


def load_figure(runs: Sequence[tuple[TrialResult, TrialResult | None]], looks: dict[LayerSpec, Identity]) -> Html:
    """One mark per layer: the share of its least used expert times the number of experts.

    Args:
        runs: of every structure the run, and the same without balance loss if there is one.
        looks: of every structure.
    """
    rows = [(run, False) for run, _ in runs] + [(other, True) for _, other in runs if other is not None]
    rows.sort(key=lambda row: [run.trial.structure for run, _ in runs].index(row[0].trial.structure))
    height = TOP + BOTTOM + ROW * len(rows)
    x = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT, logarithmic=False)
    parts = [_axes(x, height)]
    for position, (run, is_ablation) in enumerate(rows):
        look = looks[run.trial.structure]
        parts.append(_row(run, look, x, TOP + ROW * (position + 0.5), is_ablation))
    return figure(
        "expert-load",
        WIDTH,
        round(height),
        "share of the least used expert of every layer, times the number of experts",
        *parts,
    )


def _axes(x: Scale, height: float) -> Html:
    bottom = height - BOTTOM
    parts = []
    for tick in (0.0, STARVED, 0.5, 0.75, 1.0):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=float(TOP), y2=bottom, class_="grid"))
        parts.append(x_tick(f"{tick:g}", tick, x(tick), bottom + 20))
    parts.append(element("line", x1=x(STARVED), x2=x(STARVED), y1=float(TOP), y2=bottom, class_="zero"))
    parts.append(element("line", x1=float(LEFT), x2=float(WIDTH - RIGHT), y1=bottom, y2=bottom, class_="axis"))
    name = "least used expert of a layer: share of the slots × number of experts (1 is balanced)"
    parts.append(text(name, (LEFT + WIDTH - RIGHT) / 2, height - 12, class_="axis-name middle"))
    return joined(parts)


def _row(run: TrialResult, look: Identity, x: Scale, y: float, is_ablation: bool) -> Html:
    places = [x(min(layer.smallest_load, 1.0)) for layer in run.routing]
    offsets = swarm(places, [RADIUS] * len(places), ROW / 2 - RADIUS - 2)
    label = f"{look.short_label}, no balance loss" if is_ablation else look.short_label
    marks = [
        mark(
            look.marker,
            place,
            y + offset,
            RADIUS,
            class_="hollow" if is_ablation else "dot",
            data_tip=f"{label}\n{layer.layer}\nleast used expert {layer.smallest_load:.2f}",
            **data_of(x=layer.smallest_load),
        )
        for place, offset, layer in zip(places, offsets, run.routing, strict=True)
    ]
    return element(
        "g", text(label, LEFT - 14.0, y + 4, class_="label end"), *marks, class_=f"series {look.tone}", data_s=look.key
    )
