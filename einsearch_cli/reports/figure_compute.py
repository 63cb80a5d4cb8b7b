"""The loss against training compute: one line per structure, its widths as points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from einsearch_cli.reports.identity import Identity
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.numbers import count_text, flops_text, interval_text, loss_text
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    figure,
    log_ticks,
    mark,
    padded_range,
    polyline,
    spread_apart,
    text,
    x_tick,
    y_tick,
)
from einsearch_cli.reports.study import StudyReport
from einsearch_cli.scaling import Cell, Level, t_interval
from einsearch_cli.structures import LayerSpec

WIDTH, HEIGHT = 1040, 520
LEFT, TOP, BOTTOM = 74, 18, 58
LABEL_GAP = 17.0
FEW = 6
"""Up to so many structures at one budget, columns have room for names."""
TALLEST = 12.0
"""Losses above this many times the median are left out, lest one bad run flatten all others."""


@dataclass(frozen=True)
class _Canvas:
    x: Scale
    y: Scale
    right: float
    """Right end of the axes."""
    shift: dict[LayerSpec, float]
    """Pixels each structure is moved sideways so that intervals at one budget stay apart."""

    def place(self, structure: LayerSpec, compute: float, loss: float) -> tuple[float, float]:
        return self.x(compute) + self.shift.get(structure, 0.0), self.y(loss)

    def holds(self, loss: float) -> bool:
        return self.y.low <= loss <= self.y.high


def compute_figure(study: StudyReport, looks: dict[LayerSpec, Identity]) -> Html | None:
    """The loss–compute plot; None when no run has a positive loss."""
    cells = [cell for levels in study.levels.values() for level in levels for cell in level.cells]
    cells = [cell for cell in cells if cell.mean > 0 and cell.compute > 0]
    if not cells:
        return None
    canvas = _canvas(study, looks, cells)
    drawn = [item for item in reversed(study.structures) if study.levels[item]]
    drawn.sort(key=lambda item: (looks[item].stands_out, looks[item].tone == "ink"))  # the yardstick on top
    return figure(
        "loss-compute",
        WIDTH,
        HEIGHT,
        f"{study.loss_name} against training FLOPs for {len(drawn)} structures, both axes logarithmic",
        _axes(study, canvas),
        *(_curve(study, canvas, item, looks[item]) for item in drawn),
        _labels(study, canvas, looks),
    )


def _canvas(study: StudyReport, looks: dict[LayerSpec, Identity], cells: list[Cell]) -> _Canvas:
    highest = TALLEST * median(cell.mean for cell in cells)
    ends = [end for cell in cells for end in (cell.mean, *(t_interval([loss for _, loss in cell.losses]) or ()))]
    floor = min(cell.mean for cell in cells) / 2  # a wide interval may reach zero
    y_low, y_high = padded_range([min(max(end, floor), highest) for end in ends])
    x_low, x_high = min(cell.compute for cell in cells), max(cell.compute for cell in cells)
    one_budget = len(study.budgets) == 1
    longest = max(len(look.short_label) for look in looks.values() if look.stands_out)
    right = WIDTH - (
        12.0 if one_budget else 34 + 8 * (longest + len("  0.01234"))
    )  # names stand on the right of the axes
    inner = right - LEFT
    x = Scale(x_low, x_high, LEFT + 50, right - 40)
    if one_budget:
        x = Scale(x_low, x_low, LEFT, right)
    present = [item for item in study.structures if study.levels[item]]
    if not one_budget:  # what is grey may overlap
        present = [item for item in present if looks[item].stands_out]
    room = 0.9 * inner if one_budget else min(64.0, 0.4 * inner / len(study.budgets))
    step = room / max(1, len(present) - 1) if len(present) > 1 else 0.0
    middle = (len(present) - 1) / 2
    shift = {item: (position - middle) * step for position, item in enumerate(present)}
    return _Canvas(x, Scale(y_low, y_high, HEIGHT - BOTTOM, TOP), right, shift)


def _axes(study: StudyReport, canvas: _Canvas) -> Html:
    right, bottom = canvas.right, float(HEIGHT - BOTTOM)
    parts: list[str] = []
    for tick in log_ticks(canvas.y.low, canvas.y.high):
        y = canvas.y(tick)
        parts.append(element("line", x1=float(LEFT), x2=right, y1=y, y2=y, class_="grid"))
        parts.append(y_tick(f"{tick:g}", tick, LEFT - 10.0, y))
    for _, budget in study.budgets:
        x = canvas.x(budget)
        if len(study.budgets) > 1:
            parts.append(element("line", x1=x, x2=x, y1=float(TOP), y2=bottom, class_="grid"))
        parts.append(x_tick(flops_text(budget), budget, x, bottom + 22))
    parts.append(element("line", x1=float(LEFT), x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(
        text("training FLOPs per run (log scale)", (LEFT + right) / 2, HEIGHT - 10.0, class_="axis-name middle")
    )
    parts.append(
        text(
            f"{study.loss_name} (log scale)",
            0,
            0,
            class_="axis-name middle",
            transform=f"translate(16 {(TOP + bottom) / 2:.0f}) rotate(-90)",
        )
    )
    return joined(parts)


def _curve(study: StudyReport, canvas: _Canvas, structure: LayerSpec, look: Identity) -> Html:
    """Everything of one structure: other widths faint, the best width with its interval, the line."""
    levels = [level for level in study.levels[structure] if level.best.mean > 0]
    shown = [level for level in levels if canvas.holds(level.best.mean)]
    best = [canvas.place(structure, level.best.compute, level.best.mean) for level in shown]
    parts: list[str] = []
    if look.stands_out:
        parts.extend(_other_widths(study, canvas, structure, look, levels))
    if len(best) > 1:
        parts.append(polyline(best, class_="line", **_carried(canvas, structure, [level.best for level in shown])))
    radius = 6.0 if look.tone == "ink" else 5.0 if look.stands_out else 3.5
    for level, (x, y) in zip(shown, best, strict=True):
        if look.stands_out:
            parts.append(_interval(canvas, level.best, x))
        tip = cell_tip(look, level.best, study)
        carried = _carried(canvas, structure, [level.best])
        parts.append(mark(look.marker, x, y, radius, class_="dot", data_tip=tip, **carried))
    return element("g", *parts, class_=f"series {look.tone}", data_s=look.key)


def _carried(canvas: _Canvas, structure: LayerSpec, cells: Sequence[Cell]) -> dict[str, str]:
    """Compute and loss of cells, and by how many pixels their marks are moved sideways."""
    compute, loss = [cell.compute for cell in cells], [cell.mean for cell in cells]
    return data_of(x=compute, y=loss, dodge=canvas.shift.get(structure, 0.0))


def _other_widths(
    study: StudyReport, canvas: _Canvas, structure: LayerSpec, look: Identity, levels: Iterable[Level]
) -> Iterable[Html]:
    for level in levels:
        for cell in level.cells:
            if cell is not level.best and cell.mean > 0 and canvas.holds(cell.mean):
                x, y = canvas.place(structure, cell.compute, cell.mean)
                tip, carried = cell_tip(look, cell, study), _carried(canvas, structure, [cell])
                yield mark(look.marker, x, y, 2.6, class_="faint", data_tip=tip, **carried)


def _interval(canvas: _Canvas, cell: Cell, x: float) -> Html:
    """A vertical bar over the 95% interval, cut at the edges of the figure."""
    interval = t_interval([loss for _, loss in cell.losses])
    if interval is None:
        return NOTHING
    low, high = (min(max(end, canvas.y.low), canvas.y.high) for end in interval)
    carried = data_of(low=interval[0], high=interval[1])
    return element("line", x1=x, x2=x, y1=canvas.y(low), y2=canvas.y(high), class_="bar", **carried)


def cell_tip(look: Identity, cell: Cell, study: StudyReport) -> str:
    """What a point shows on hover, one fact per line."""
    interval = t_interval([loss for _, loss in cell.losses])
    seeds = f"{len(cell.losses)} seed{'s' * (len(cell.losses) != 1)}"
    lines = (
        f"{look.label}",
        f"{look.entry.structure}",
        f"{study.loss_name}: {loss_text(cell.mean)} ({seeds})",
        f"95% interval: {interval_text(*interval)}" if interval else "one seed: no interval",
        f"width {cell.width}, {count_text(cell.params)} parameters",
        f"rung {cell.rung + 1}: {flops_text(cell.compute)} training FLOPs",
    )
    return "\n".join(lines)


def _labels(study: StudyReport, canvas: _Canvas, looks: dict[LayerSpec, Identity]) -> Html:
    """Names beside the last point of each structure that stands out, moved apart where they would touch."""
    if len(study.budgets) == 1:
        return _numbers_under_columns(study, canvas, looks)
    ends: dict[int, list[LayerSpec]] = {}
    for item, levels in study.levels.items():
        if levels and looks[item].stands_out and canvas.holds(levels[-1].best.mean):
            ends.setdefault(levels[-1].rung, []).append(item)
    parts: list[str] = []
    for rung, items in ends.items():
        points = [canvas.place(item, _last(study, item).compute, _last(study, item).mean) for item in items]
        column = max(x for x, _ in points) + 26
        lowest = HEIGHT - BOTTOM - 6.0
        if rung != study.budgets[-1][0]:  # lines go on from here, downwards: the names stay above them
            lowest = min(canvas.y(level.best.mean) for level in _drawn_at(study, canvas, looks, rung)) - 4
        heights = spread_apart([y for _, y in points], LABEL_GAP, TOP + 8.0, lowest)
        for item, (x, y), height in zip(items, points, heights, strict=True):
            look = looks[item]
            leader = polyline([(x + 7, y), (column - 4, height)], class_="leader")
            label = text(
                f"{look.short_label}  {loss_text(_last(study, item).mean)}", column, height + 4, class_="label"
            )
            parts.append(element("g", leader, label, class_=f"series {look.tone}", data_s=look.key))
    return joined(parts)


def _drawn_at(study: StudyReport, canvas: _Canvas, looks: dict[LayerSpec, Identity], rung: int) -> Iterable[Level]:
    """The levels of one rung of the structures that stand out."""
    for item, levels in study.levels.items():
        if looks[item].stands_out:
            yield from (level for level in levels if level.rung == rung and canvas.holds(level.best.mean))


def _last(study: StudyReport, item: LayerSpec) -> Cell:
    return study.levels[item][-1].best


def _numbers_under_columns(study: StudyReport, canvas: _Canvas, looks: dict[LayerSpec, Identity]) -> Html:
    """With one budget each structure has a column of its own: its rank is written above it."""
    parts = []
    for item, levels in study.levels.items():
        if levels and canvas.holds(levels[-1].best.mean):
            look = looks[item]
            name = look.short_label if len(study.structures) <= FEW else look.number
            top = min(canvas.y(cell.mean) for cell in levels[-1].cells if canvas.holds(cell.mean))
            interval = t_interval([loss for _, loss in levels[-1].best.losses])
            if interval and look.stands_out:
                top = min(top, canvas.y(min(interval[1], canvas.y.high)))
            x, _ = canvas.place(item, levels[-1].best.compute, levels[-1].best.mean)
            label = text(name, x, max(TOP + 2.0, top - 10), class_="label middle")
            parts.append(element("g", label, class_=f"series {look.tone}", data_s=look.key))
    return joined(parts)
