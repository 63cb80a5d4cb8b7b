"""How the loss hangs on ω, ψ and ν: three panels over one loss axis."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from statistics import median

from einsearch_cli.reports.identity import Identity
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.numbers import count_text, flops_text, loss_text
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    figure,
    log_ticks,
    mark,
    padded_range,
    polyline,
    swarm,
    text,
    x_tick,
    y_tick,
)
from einsearch_cli.reports.study import StudyReport
from einsearch_cli.structures import LayerSpec

WIDTH, HEIGHT = 1040, 400
LEFT, TOP, BOTTOM, GAP = 74, 34, 66, 26
TALLEST = 12.0
"""Losses above this many times the median are left out, as in the loss–compute plot."""

PANELS = (
    ("omega", "ω", "parameter sharing", "0: every FLOP has its own parameter"),
    ("psi", "ψ", "rank", "1: full rank"),
    ("nu", "ν", "cost", "1: as costly as dense"),
)


def taxonomy_figure(study: StudyReport, looks: dict[LayerSpec, Identity]) -> Html | None:
    """Loss at the largest budget common to all structures, against each exponent; None without losses."""
    losses = {item: loss for item, loss in study.common_losses.items() if loss > 0}
    if not losses or study.common_rung is None:
        return None
    ceiling = TALLEST * median(losses.values())
    losses = {item: loss for item, loss in losses.items() if loss <= ceiling}
    y = Scale(*padded_range(list(losses.values()), 0.08), HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - 8 - 2 * GAP) / 3
    panels = [_panel(study, looks, losses, y, LEFT + index * (width + GAP), width, PANELS[index]) for index in range(3)]
    budget = flops_text(study.common_rung[1])
    return figure(
        "taxonomy",
        WIDTH,
        HEIGHT,
        f"{study.loss_name} at {budget} training FLOPs against omega, psi and nu for {len(losses)} structures",
        _loss_axis(study, y),
        *panels,
    )


def _loss_axis(study: StudyReport, y: Scale) -> Html:
    parts = [y_tick(f"{tick:g}", tick, LEFT - 10.0, y(tick)) for tick in log_ticks(y.low, y.high)]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"translate(16 {middle:.0f}) rotate(-90)"
    return joined([*parts, text(study.loss_name, 0, 0, class_="axis-name middle", transform=turned)])


def _panel(
    study: StudyReport,
    looks: dict[LayerSpec, Identity],
    losses: dict[LayerSpec, float],
    y: Scale,
    left: float,
    width: float,
    panel: tuple[str, str, str, str],
) -> Html:
    field, symbol, meaning, hint = panel
    values: dict[LayerSpec, Fraction] = {item: getattr(study.classes[item], field) for item in losses}
    stops = sorted(set(values.values()))
    members = {stop: [item for item in losses if values[item] == stop] for stop in stops}
    # A crowded column gets more room than one with a single structure.
    weights = {stop: 1 + (len(members[stop]) - 1) / 8 for stop in stops}
    unit = width / sum(weights.values())
    parts: list[str] = [
        element("line", x1=left, x2=left + width, y1=y(tick), y2=y(tick), class_="grid")
        for tick in log_ticks(y.low, y.high)
    ]
    bottom = float(HEIGHT - BOTTOM)
    parts.append(element("line", x1=left, x2=left + width, y1=bottom, y2=bottom, class_="axis"))
    longest = 4 + 8 * max(len(str(stop)) for stop in stops)
    edge = left
    for index, stop in enumerate(stops):
        slot = weights[stop] * unit
        lowered = 13.0 if unit < longest and index % 2 else 0.0  # narrow columns: names in two rows
        parts.append(x_tick(str(stop), float(stop), edge + slot / 2, bottom + 18 + lowered))
        parts.append(_column(study, looks, losses, members[stop], stop, y, edge + slot / 2, slot))
        edge += slot
    parts.append(text(f"{symbol} · {meaning}", left + width / 2, 18, class_="panel-name middle"))
    parts.append(text(hint, left + width / 2, HEIGHT - 14.0, class_="axis-name middle"))
    return element("g", *parts, data_panel=field)


def _column(
    study: StudyReport,
    looks: dict[LayerSpec, Identity],
    losses: dict[LayerSpec, float],
    members: Sequence[LayerSpec],
    stop: Fraction,
    y: Scale,
    centre: float,
    slot: float,
) -> Html:
    """All structures with one value of one exponent, and a line at their median loss."""
    members = sorted(members, key=lambda item: (not looks[item].stands_out, losses[item]))
    radii = [8.5 if looks[item].stands_out else 4.0 for item in members]
    offsets = swarm([y(losses[item]) for item in members], radii, slot / 2 - 8)
    parts: list[str] = []
    if len(members) > 1:
        middle, half = median(losses[item] for item in members), min(slot / 2 - 4, 40.0)
        ends = [(centre - half, y(middle)), (centre + half, y(middle))]
        parts.append(polyline(ends, class_="median", **data_of(y=[middle, middle])))
    for item, offset, radius in reversed(list(zip(members, offsets, radii, strict=True))):
        carried = data_of(x=float(stop), y=losses[item], dodge=offset)
        disc = mark("circle", centre + offset, y(losses[item]), radius, class_="badge", **carried)
        parts.append(_badge(study, looks[item], losses[item], disc, centre + offset, y(losses[item])))
    return joined(parts)


def _badge(study: StudyReport, look: Identity, loss: float, disc: Html, x: float, y: float) -> Html:
    """A disc that carries the rank of a structure that stands out; a plain dot for the others."""
    known = study.classes[look.entry.structure]
    budget = flops_text(study.common_rung[1] if study.common_rung else None)
    tip = "\n".join((
        look.label,
        f"{look.entry.structure}",
        f"ω = {known.omega}, ψ = {known.psi}, ν = {known.nu}",
        f"{study.loss_name}: {loss_text(loss)} at {budget} FLOPs",
        f"{count_text(look.entry.params)} parameters at width {look.entry.width}",
    ))  # fmt: skip
    inside = text(look.number, x, y + 3.6, class_="badge-text middle") if look.stands_out else NOTHING
    return element("g", disc, inside, class_=f"series {look.tone}", data_s=look.key, data_tip=tip)
