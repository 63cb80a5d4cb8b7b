"""A chart is data: axes and series with values and intervals. Here it becomes SVG whose marks carry their values.

Coordinates are pixels of a chart's viewBox, y pointing down. A figure is one chart or several side by side. On narrow
screens the names at the ends of lines are cut off, and the legend below the figure names the series instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from einsearch_cli.reports.looks import Look
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.plot import (
    Scale,
    data_of,
    linear_ticks,
    log_ticks,
    mark,
    padded_range,
    polyline,
    spread_apart,
    swarm,
    swatch,
    text,
)

LABEL_GAP = 17.0
TOP, BOTTOM = 26, 42
_RADII = {"dot": 5.0, "faint": 2.6, "hollow": 5.0, "badge": 8.5}
_COLUMN = 22
"""Pixels between the end of a line and its name."""
_CHARACTER = 7.2
"""Width of a bold letter, at most."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its range, and the values that have a tick."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """(value, label)."""
    logarithmic: bool = True
    places: Mapping[float, tuple[float, float]] | None = None
    """Centre and half width of each category, as shares of the axis; None for an axis of numbers."""
    has_grid: bool = True
    are_rows: bool = False
    """Whether labels stand inside of the chart, above the marks of their category."""

    def scale(self, start: float, end: float) -> Scale:
        return Scale(self.low, self.high, start, end, self.logarithmic)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def log_axis(name: str, values: Sequence[float], pad: float = 0.06, most: int = 8) -> Axis:
    """A logarithmic axis over positive values, with round ticks."""
    low, high = padded_range(values, pad)
    return Axis(name=name, low=low, high=high, ticks=[(tick, f"{tick:g}") for tick in log_ticks(low, high, most)])


def linear_axis(name: str, high: float) -> Axis:
    """A linear axis from 0 to `high`, with round ticks."""
    ticks = [(tick, f"{tick:,g}") for tick in linear_ticks(high)]
    return Axis(name=name, low=0.0, high=high, ticks=ticks, logarithmic=False, has_grid=False)


def category_axis(name: str, sizes: Mapping[float, float], labels: Sequence[str], are_rows: bool = False) -> Axis:
    """Categories side by side; `sizes` has how much room each one gets."""
    whole = sum(sizes.values())
    places, edge = {}, 0.0
    for value, size in sizes.items():
        places[value] = ((edge + size / 2) / whole, size / whole / 2)
        edge += size
    ticks = list(zip(sizes, labels, strict=True))
    return Axis(
        name=name,
        low=0.0,
        high=1.0,
        ticks=ticks,
        logarithmic=False,
        places=places,
        has_grid=False,
        are_rows=are_rows,
    )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark."""

    x: float
    y: float
    kind: str = "dot"
    """'dot', 'hollow', 'faint', or 'badge': a disc with a label in it."""
    tip: str | None = None
    """What is said about it on hover, one fact per line."""
    interval: tuple[float, float] | None = None
    """Ends of an upright bar."""
    radius: float | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through values."""

    points: Sequence[tuple[float, float]]
    tip: str | None = None
    is_thin: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """What has one look and one name."""

    look: Look
    points: Sequence[Point] = ()
    lines: Sequence[Line] = ()
    name: str = ""
    """Shown in the legend."""
    label: str = ""
    """Shown at the end of the lines."""
    dodge: float = 0.0
    """Pixels by which everything is moved to the right, so that marks at one place do not hide each other."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A dashed line that means something."""

    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Axes with everything between them."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    """The first one is drawn on top and is the first of the legend."""
    rules: Sequence[Rule] = ()
    panel: str = ""
    """Name of the chart in its figure."""
    title: str = ""
    width: int = 900
    height: int = 400
    left: int = 62

    @property
    def label_room(self) -> float:
        """Pixels on the right for the longest name at the end of a line."""
        longest = max((len(item.label) for item in self.series), default=0)
        aside = max((item.dodge for item in self.series if item.label), default=0.0)
        return _COLUMN + 14 + max(aside, 0.0) + _CHARACTER * longest if longest else 14.0

    @property
    def right(self) -> float:
        return self.width - self.label_room

    @property
    def bottom(self) -> float:
        return float(self.height - BOTTOM)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a pair of values."""
        return _place(self.x, x, self.left, self.right), _place(self.y, y, self.bottom, TOP)

    def html(self, description: str) -> Html:
        """The drawing over the name of the axis that runs to the right."""
        parts = (
            _grid(self),
            *(_rule(self, rule) for rule in self.rules),
            *(_rule_name(self, rule) for rule in self.rules if rule.name),
            *_series(self),
            _end_labels(self),
        )
        drawing = element(
            "svg",
            *parts,
            class_="plot",
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=f"{description}: {self.title}" if self.title else description,
            data_panel=self.panel,
            style=f"--units:{self.width};--shown:{self.width - self.label_room + 30 * bool(self.label_room > 14):.0f}",
        )
        return element("div", drawing, element("p", self.x.name, class_="axis-title middle"))


def figure(name: str, description: str, charts: Sequence[Chart]) -> Html:
    """Charts side by side under the name of their common upright axis, over a legend of the series that have names.

    Args:
        name: identifier and link target in the page.
        description: what is shown, for people who do not see it.
        charts: their series of one look are one entry of the legend.
    """
    shown = {item.look.key: item for chart in charts for item in chart.series if item.name}
    entries = (
        element("span", swatch(item.look.marker, item.look.tone), item.name, class_="entry", data_s=item.look.key)
        for item in shown.values()
    )
    is_named = any(item.label for item in shown.values())
    legend = element("p", *entries, class_="legend narrow" if is_named else "legend") if shown else NOTHING
    above = element("p", charts[0].y.name, class_="axis-title") if charts[0].y.name else NOTHING
    drawings = element("div", *(chart.html(description) for chart in charts), class_="panels", id=name)
    return element("div", above, drawings, legend, class_="figure", tabindex="0", role="group", aria_label=description)


def _place(axis: Axis, value: float, start: float, end: float) -> float:
    if axis.places is not None:
        return start + axis.places[value][0] * (end - start)
    return axis.scale(start, end)(value)


def _grid(chart: Chart) -> Html:
    left, right, bottom = float(chart.left), chart.right, chart.bottom
    parts = [text(chart.title, left, TOP - 10.0, class_="panel-name")] if chart.title else []
    for value, label in chart.y.ticks:
        _, y = chart.at(chart.x.low, value) if chart.x.places is None else chart.at(next(iter(chart.x.places)), value)
        if chart.y.has_grid:
            parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        if chart.y.are_rows and chart.y.places:
            top = y - chart.y.places[value][1] * (bottom - TOP)
            parts.append(text(label, left, top + 14, class_="row-name"))
        else:
            parts.append(text(label, left - 8.0, y, dy="0.32em", class_="tick end", **data_of(y=value)))
    crowded = _is_crowded(chart)
    for number, (value, label) in enumerate(chart.x.ticks):
        x = _place(chart.x, value, chart.left, right)
        if chart.x.has_grid:
            parts.append(element("line", x1=x, x2=x, y1=float(TOP), y2=bottom, class_="grid"))
        lowered = 13.0 if crowded and number % 2 else 0.0  # narrow columns: names in two rows
        parts.append(text(label, x, bottom + 5 + lowered, dy="1.1em", class_="tick middle", **data_of(x=value)))
    parts.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    return joined(parts)


def _is_crowded(chart: Chart) -> bool:
    if chart.x.places is None:
        return False
    smallest = 2 * min(half for _, half in chart.x.places.values()) * (chart.right - chart.left)
    return smallest < 4 + 8 * max(len(label) for _, label in chart.x.ticks)


def _rule(chart: Chart, rule: Rule) -> Html:
    xs, ys = zip(*rule.points, strict=True)
    is_level = chart.x.places is not None or len(set(ys)) == 1
    carried = data_of(x=xs) if chart.y.places else data_of(y=ys) if is_level else data_of(x=xs, y=ys)
    return polyline(_ends(chart, rule), class_="median", **carried)


def _ends(chart: Chart, rule: Rule) -> list[tuple[float, float]]:
    """Pixels of a rule; in a category it is as wide as the category."""
    (x, y), (x_end, y_end) = (chart.at(*point) for point in rule.points)
    if chart.x.places is not None:
        half = min(40.0, chart.x.places[rule.points[0][0]][1] * (chart.right - chart.left) - 4)
        return [(x - half, y), (x + half, y)]
    if chart.y.places is not None:
        return [(x, float(TOP)), (x_end, chart.bottom)]
    return [(x, y), (x_end, y_end)]


def _rule_name(chart: Chart, rule: Rule) -> Html:
    """The name of a rule where it covers the fewest marks: at either end or in the middle, above or below."""
    (x, y), (x_end, y_end) = _ends(chart, rule)
    width, height = _CHARACTER * len(rule.name), 15.0
    marks = [chart.at(point.x, point.y) for item in chart.series for point in item.points]
    spots = [
        (min(max(x + share * (x_end - x) - share * width, chart.left + 2), chart.right - width), y + share * (y_end - y) + side)
        for share in (0.02, 0.98, 0.25, 0.75, 0.5)
        for side in (-6.0, 16.0)
    ]  # fmt: skip

    def covered(spot: tuple[float, float]) -> int:
        near = [
            a for a, b in marks if abs(b - (spot[1] - 4)) < height / 2 + 6 and spot[0] - 6 < a < spot[0] + width + 6
        ]
        is_outside = not TOP + 10 < spot[1] < chart.bottom - 2
        return len(near) + 1000 * is_outside

    best = min(spots, key=covered)
    return text(rule.name, *best, class_="tick rule-name")


def _series(chart: Chart) -> Iterable[Html]:
    moved = _moved_apart(chart)
    for item in reversed(chart.series):
        lines = [_line(chart, item, line) for line in item.lines]
        points = [_point(chart, item, point, moved.get(id(point), 0.0)) for point in item.points]
        yield element("g", *lines, *points, class_=f"series {item.look.tone}", data_s=item.look.key)


def _line(chart: Chart, item: Series, line: Line) -> Html:
    places = [(x + item.dodge, y) for x, y in (chart.at(*point) for point in line.points)]
    carried = data_of(x=[x for x, _ in line.points], y=[y for _, y in line.points], dodge=item.dodge)
    return polyline(places, class_="line thin" if line.is_thin else "line", data_tip=line.tip, **carried)


def _point(chart: Chart, item: Series, point: Point, aside: float) -> Html:
    x, y = chart.at(point.x, point.y)
    carried = data_of(x=point.x, y=point.y, dodge=0.0 if chart.y.places else item.dodge + aside)
    if chart.y.places:
        y += aside
    else:
        x += item.dodge + aside
    shape = "circle" if point.kind == "badge" else item.look.marker
    drawn = mark(shape, x, y, _radius(point), class_=point.kind, data_tip=point.tip, **carried)
    return joined([_interval(chart, point, x), drawn, _label(chart, item, point, x, y) if point.label else NOTHING])


def _label(chart: Chart, item: Series, point: Point, x: float, y: float) -> Html:
    """In a badge, else above everything of its series."""
    if point.kind == "badge":
        return text(point.label, x, y, dy="0.35em", class_="badge-text middle")
    highest = max(end for other in item.points for end in (other.y, *(other.interval or ())))
    top = chart.at(point.x, min(highest, chart.y.high))[1]
    return text(point.label, x, max(TOP + 4.0, top - 10), class_="label middle")


def _radius(point: Point) -> float:
    return _RADII[point.kind] if point.radius is None else point.radius


def _interval(chart: Chart, point: Point, x: float) -> Html:
    """An upright bar, cut at the edges of the chart."""
    if point.interval is None:
        return NOTHING
    ends = [chart.at(point.x, min(max(end, chart.y.low), chart.y.high))[1] for end in point.interval]
    carried = data_of(low=point.interval[0], high=point.interval[1])
    return element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="bar", **carried)


def _moved_apart(chart: Chart) -> dict[int, float]:
    """Pixels by which marks of one category are moved so that none hides another; the first ones stay in the middle."""
    is_upright = chart.y.places is not None
    places = chart.y.places if is_upright else chart.x.places
    if places is None:
        return {}
    length = chart.bottom - TOP if is_upright else chart.right - chart.left
    groups: dict[float, list[Point]] = {}
    for item in chart.series:
        for point in item.points:
            groups.setdefault(point.y if is_upright else point.x, []).append(point)
    moved = {}
    for value, points in groups.items():
        along = [chart.at(point.x, point.y)[0 if is_upright else 1] for point in points]
        reach = places[value][1] * length - (22 if is_upright else 8)
        for point, offset in zip(points, swarm(along, [_radius(p) for p in points], reach), strict=True):
            moved[id(point)] = offset
    return moved


def _end_labels(chart: Chart) -> Html:
    """Names at the ends of lines, moved apart where they would touch."""
    ends: list[tuple[float, Series, tuple[float, float]]] = []
    for item in chart.series:
        last = [line.points[-1] for line in item.lines] or [(point.x, point.y) for point in item.points[-1:]]
        if item.label and last:
            heights = [chart.at(x, y)[1] for x, y in last]
            x = chart.at(*last[0])[0]
            ends.append((x, item, (x + item.dodge, sum(heights) / len(heights))))
    ends.sort(key=lambda entry: entry[0])
    groups: list[list[tuple[float, Series, tuple[float, float]]]] = []
    for entry in ends:  # runs of one budget spend nearly the same FLOPs: their names share a column
        if groups and entry[0] - groups[-1][-1][0] < _COLUMN:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    parts = []
    for group in groups:
        items = [(item, place) for _, item, place in group]
        column = max(place for _, (place, _) in items) + _COLUMN
        lowest = chart.bottom - 4.0
        if group is not groups[-1]:  # lines go on from here, downwards: the names stay above them
            near = [y for x, _, _ in group for other in chart.series for y in _heights_at(chart, other, x)]
            lowest = min(near, default=chart.bottom) - 4
        placed = spread_apart([y for _, (_, y) in items], LABEL_GAP, TOP + 8.0, max(lowest, TOP + 8.0))
        for (item, (end, y)), height in zip(items, placed, strict=True):
            leader = polyline([(end + 7, y), (column - 4, height)], class_="leader")
            label = text(item.label, column, height + 4, class_="label")
            parts.append(element("g", leader, label, class_=f"series {item.look.tone} end-label", data_s=item.look.key))
    return joined(parts)


def _heights_at(chart: Chart, item: Series, x: float) -> Iterable[float]:
    for line in item.lines if item.label else ():
        yield from (y for place, y in (chart.at(*point) for point in line.points) if abs(place - x) < 1)
