"""Layers as points, one panel for each mode, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from einsearch_cli.reports.identity import MARKERS
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import bytes_text, factor_text, flops_text, share_text, time_text
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    figure,
    log_ticks,
    mark,
    padded_range,
    polyline,
    swatch,
    text,
    x_tick,
    y_tick,
)
from einsearch_cli.reports.speed_table import case_title

if TYPE_CHECKING:
    from einsearch_cli.speed import BenchResult, Measurement

WIDTH, HEIGHT = 1040, 400
LEFT, TOP, BOTTOM, GAP = 62, 34, 56, 26
SMALL, LARGE = 3.8, 7.0
"""Radii of the points of the narrowest and the widest layer."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one structure looks."""

    key: str
    tone: str
    marker: str


def looks_of(result: BenchResult) -> dict[str, Look]:
    """Colour and marker by the layer's name; no two have both in common until 49 are named."""
    names = list(dict.fromkeys(item.name for item in result.measurements))
    count = len(MARKERS)
    coloured = [name for name in names if name != "dense"]
    looks = {
        name: Look(f"s{number}", f"c{number % count + 1}", MARKERS[(number + number // count) % count])
        for number, name in enumerate(coloured)
    }
    return {name: looks.get(name, Look("dense", "ink", "circle")) for name in names}


def legend(looks: dict[str, Look]) -> Html:
    """Marker and name of every layer."""
    entries = (
        element("span", swatch(look.marker, look.tone), name, class_="entry", data_s=look.key)
        for name, look in looks.items()
    )
    return element("p", joined(entries), class_="legend")


@dataclass(frozen=True, slots=True)
class Axes:
    """What a figure shows: names and values of both axes, and a line that means something."""

    name: str
    x_name: str
    x: Callable[[Measurement], float]
    y_name: str
    y: Callable[[Measurement], float]
    level: str
    """What is at y = 1."""
    is_diagonal: bool
    """Whether y = x means something too."""


SPEEDUP = Axes(
    "speed-up",
    "theoretical speed-up: FLOPs of dense / FLOPs",
    lambda item: item.theoretical_speedup,
    "speed-up over nn.Linear",
    lambda item: item.speedup,
    "nn.Linear",
    True,
)
OVERHEAD = Axes(
    "overhead",
    "FLOPs of a call",
    lambda item: float(item.flops),
    "time / time of the bare products",
    lambda item: item.vs_bare.median,
    "the bare products",
    False,
)


def speed_figure(result: BenchResult, looks: dict[str, Look], axes: Axes) -> Html:
    """One panel for each mode; the panels share their axes."""
    items = result.measurements
    modes = sorted({item.case.mode for item in items})
    x_range = padded_range([axes.x(item) for item in items] + ([1.0] if axes.is_diagonal else []))
    y_range = padded_range([axes.y(item) for item in items] + [1.0])
    room = (WIDTH - LEFT - GAP * len(modes)) / len(modes)
    panels: list[Html] = []
    for number, mode in enumerate(modes):
        begin = LEFT + number * (room + GAP)
        x = Scale(*x_range, begin, begin + room)
        y = Scale(*y_range, HEIGHT - BOTTOM, TOP)
        mine = [item for item in items if item.case.mode is mode]
        frame = _frame(axes, x, y, str(mode), with_ticks=number == 0)
        parts = (frame, _points(axes, x, y, mine, looks), _line_names(axes, x, y))
        panels.append(element("g", *parts, data_panel=str(mode)))
    vertical = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"
    return figure(
        axes.name,
        WIDTH,
        HEIGHT,
        f"{axes.y_name} against {axes.x_name}, both axes logarithmic, for {len(looks)} layers",
        *panels,
        text(axes.x_name, (LEFT + WIDTH) / 2, HEIGHT - 10.0, class_="axis-name middle"),
        text(axes.y_name, 0, 0, class_="axis-name middle", transform=vertical),
    )


def _frame(axes: Axes, x: Scale, y: Scale, title: str, with_ticks: bool) -> Html:
    parts = [text(title, x.start, TOP - 14.0, class_="panel-name")]
    for tick in log_ticks(y.low, y.high):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        if with_ticks:
            parts.append(y_tick(f"{tick:g}", tick, x.start - 8, y(tick)))
    for tick in log_ticks(x.low, x.high, most=5):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.end, class_="grid"))
        shown = f"{tick:g}" if axes.is_diagonal else flops_text(tick).removeprefix("1×")
        parts.append(x_tick(shown, tick, x(tick), y.start + 20))
    parts.append(polyline([(x.start, y(1.0)), (x.end, y(1.0))], class_="median", **data_of(y=[1.0, 1.0])))
    if axes.is_diagonal:
        ends = _diagonal(x, y)
        parts.append(polyline([(x(end), y(end)) for end in ends], class_="median", **data_of(x=ends, y=ends)))
    return joined(parts)


def _diagonal(x: Scale, y: Scale) -> tuple[float, float]:
    """Where the line y = x enters and leaves the panel."""
    return max(x.low, y.low), min(x.high, y.high)


def _line_names(axes: Axes, x: Scale, y: Scale) -> Html:
    """What the lines mean, above the points."""
    parts = [text(axes.level, x.end - 4, y(1.0) + 15, class_="tick end halo")]
    if axes.is_diagonal:
        low, high = _diagonal(x, y)
        near_end = high * (low / high) ** 0.12
        is_right = x(near_end) > (x.start + x.end) / 2  # the name is where there is room for it
        place, side = (x(near_end) - 8, "tick end halo") if is_right else (x(near_end) + 8, "tick halo")
        parts.append(text("all of it realised", place, y(near_end), class_=side))
    return joined(parts)


def _points(axes: Axes, x: Scale, y: Scale, items: Sequence[Measurement], looks: dict[str, Look]) -> Html:
    widths = sorted({item.case.width for item in items})
    step = (LARGE - SMALL) / max(1, len(widths) - 1)
    smallest = SMALL if len(widths) > 1 else (SMALL + LARGE) / 2
    parts = []
    for item in sorted(items, key=lambda item: -item.case.width):
        look = looks[item.name]
        radius = smallest + step * widths.index(item.case.width)
        right, height = axes.x(item), axes.y(item)
        carried = data_of(x=right, y=height)
        point = mark(look.marker, x(right), y(height), radius, class_="dot", data_tip=tip(item), **carried)
        parts.append(element("g", point, class_=f"series {look.tone}", data_s=look.key))
    return joined(parts)


def tip(item: Measurement) -> str:
    """What a point shows on hover, one fact per line."""
    lines = (
        item.name,
        case_title(item.case),
        f"{time_text(item.layer_s.median)} a call; nn.Linear {time_text(item.dense_s.median)}, "
        f"bare products {time_text(item.bare_s.median)}",
        f"speed-up {factor_text(item.speedup)} of {factor_text(item.theoretical_speedup)} possible: "
        f"{share_text(item.realised)}",
        f"{item.vs_bare.median:.2f} times its bare products, {item.gflops_per_s:.1f} GFLOP/s",
        f"peak memory {bytes_text(item.peak_bytes)}; nn.Linear {bytes_text(item.dense_peak_bytes)}",
    )
    return "\n".join(lines)
