"""Figures: charts side by side as SVG whose marks carry their values, over a legend.

On narrow screens the names at the ends of lines are cut off, and the legend below the figure names the series instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from einsearch_cli.reports.chart import CHARACTER, COLUMN, TOP, Chart, Line, Place, Point, Rule, Series
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.plot import arrow, data_of, mark, polyline, spread_apart, swarm, swatch, text

LABEL_GAP = 17.0
_ARROW = 4.5
"""Radius of the arrows at the edges."""
_RADII = {"dot": 5.0, "faint": 2.6, "hollow": 5.0, "badge": 8.5}


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
    drawings = element("div", *(_drawing(chart, description) for chart in charts), class_="panels", id=name)
    return element("div", above, drawings, legend, class_="figure", tabindex="0", role="group", aria_label=description)


def _drawing(chart: Chart, description: str) -> Html:
    """The drawing over the name of the axis that runs to the right."""
    parts = (
        _grid(chart),
        *(_rule(chart, rule) for rule in chart.rules),
        *_rule_names(chart),
        *_row_names(chart),
        *_series(chart),
        _end_labels(chart),
    )
    drawing = element(
        "svg",
        *parts,
        class_="plot",
        viewBox=f"0 0 {chart.width} {chart.height}",
        role="img",
        aria_label=f"{description}: {chart.title}" if chart.title else description,
        data_panel=chart.panel,
        style=f"--units:{chart.width};--shown:{chart.shown:.0f}",
    )
    return element("div", drawing, element("p", chart.x.name, class_="axis-title middle"))


def _grid(chart: Chart) -> Html:
    left, right, bottom = float(chart.left), chart.right, chart.bottom
    parts = [text(chart.title, left, TOP - 10.0, class_="panel-name")] if chart.title else []
    for value, label in chart.y.ticks:
        _, y = chart.at(chart.x.low, value) if chart.x.places is None else chart.at(next(iter(chart.x.places)), value)
        if chart.y.has_grid:
            parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        if not chart.y.are_rows:
            parts.append(text(label, left - 8.0, y, dy="0.32em", class_="tick end", **data_of(y=value)))
    crowded, end = _is_crowded(chart), -math.inf
    for number, (value, label) in enumerate(chart.x.ticks):
        x = chart.x.place(value, chart.left, right)
        if chart.x.has_grid:
            parts.append(element("line", x1=x, x2=x, y1=float(TOP), y2=bottom, class_="grid"))
        half = chart.tick_width(label) / 2
        if chart.x.places is None and x - half < end + 6:  # it would touch the label before
            continue
        end = x + half
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


def _ends(chart: Chart, rule: Rule) -> tuple[Place, Place]:
    """Pixels of a rule; in a category it is as wide as the category."""
    (x, y), (x_end, y_end) = (chart.at(*point) for point in rule.points)
    if chart.x.places is not None:
        half = min(40.0, chart.x.places[rule.points[0][0]][1] * (chart.right - chart.left) - 4)
        return (x - half, y), (x + half, y)
    if chart.y.places is not None:
        return (x, float(TOP)), (x_end, chart.bottom)
    return (x, y), (x_end, y_end)


def _rule_names(chart: Chart) -> Iterable[Html]:
    """The names of rules, above or below them, where they cover no other name and as little else as possible."""
    drawn = list(_drawn(chart))
    taken: list[tuple[float, float, float]] = []
    for rule in (rule for rule in chart.rules if rule.name):
        (x, y), (x_end, y_end) = _ends(chart, rule)
        width = CHARACTER * len(rule.name)
        rules = [_ends(chart, other) for other in chart.rules if other is not rule or y != y_end]
        crossed = [*drawn, *(place for one, other in rules for place in _along(one, other))]

        def covered(spot: tuple[float, float], width: float = width, crossed: Sequence[Place] = crossed) -> int:
            start, base = spot
            near = sum(abs(b - (base - 4)) < 13 and start - 6 < a < start + width + 6 for a, b in crossed)
            names = sum(abs(b - base) < 15 and a < start + width and start < end for a, end, b in taken)
            return near + 1000 * names + 10_000 * (not TOP + 10 < base < chart.bottom - 2)

        lefts = [
            (x + share * (x_end - x) - before * width, y + share * (y_end - y))
            for share in (0.02, 0.98, 0.25, 0.75, 0.5)
            for before in (share, 1.0, 0.0)
        ]
        spots = [(min(max(at, chart.left + 2), chart.right - width), base) for at, base in lefts]
        start, base = min(((at, base + side) for at, base in spots for side in (-6.0, 16.0)), key=covered)
        taken.append((start, start + width, base))
        yield text(rule.name, start, base, class_="tick rule-name")


def _drawn(chart: Chart) -> Iterable[Place]:
    """Pixels that marks, intervals and lines go through, a few of each."""
    for item in chart.series:
        for point in filter(chart.holds, item.points):
            yield from (
                (x + item.dodge, y) for x, y in (chart.at(point.x, end) for end in (point.y, *(point.interval or ())))
            )
        for line in item.lines:
            for one, other in pairwise(chart.at(*point) for point in line.points):
                yield from _along(one, other)


def _along(start: Place, end: Place) -> Iterable[Place]:
    """Pixels from one to another."""
    for share in (step / 16 for step in range(17)):
        yield start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _row_names(chart: Chart) -> Iterable[Html]:
    """The name of every row, above its marks."""
    if chart.y.are_rows and chart.y.places is not None:
        for value, label in chart.y.ticks:
            top = chart.bottom + sum(chart.y.places[value]) * (TOP - chart.bottom)
            yield text(label, float(chart.left), top + 14, class_="row-name")


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
    if not chart.holds(point):
        return _beyond(chart, item, point)
    x, y = chart.at(point.x, point.y)
    carried = data_of(x=point.x, y=point.y, dodge=0.0 if chart.y.places else item.dodge + aside)
    if chart.y.places:
        y += aside
    else:
        x += item.dodge + aside
    shape = "circle" if point.kind == "badge" else item.look.marker
    drawn = mark(shape, x, y, _radius(point), class_=point.kind, data_tip=point.tip, **carried)
    return joined([_interval(chart, point, x), drawn, _label(chart, item, point, x, y) if point.label else NOTHING])


def _beyond(chart: Chart, item: Series, point: Point) -> Html:
    """An arrow at the edge beyond which a point lies."""
    x, y = chart.at(chart.x.nearest(point.x), chart.y.nearest(point.y))
    side = (point.x > chart.x.high) - (point.x < chart.x.low) if chart.x.places is None else 0
    upright = (point.y < chart.y.low) - (point.y > chart.y.high) if chart.y.places is None else 0
    room = _ARROW + 1.0  # the arrow lies inside of the chart
    x, y = x - side * room + (0.0 if side else item.dodge), y - upright * room
    tip = None if point.tip is None else f"{point.tip}\noutside of the chart, where the arrow points"
    carried = data_of(x=point.x, y=point.y, dodge=0.0 if side else item.dodge)
    return arrow(x, y, (side, upright), _ARROW, class_="beyond", data_tip=tip, **carried)


def _label(chart: Chart, item: Series, point: Point, x: float, y: float) -> Html:
    """The label of a point: in a badge, else above everything of its series."""
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
            if chart.holds(point):
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
        if groups and entry[0] - groups[-1][-1][0] < COLUMN:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    parts = []
    for group in groups:
        items = [(item, place) for _, item, place in group]
        column = max(place for _, (place, _) in items) + COLUMN
        lowest = chart.bottom - 4.0
        if group is not groups[-1]:  # lines go on from here, downwards: the names stay above them
            end = column + CHARACTER * max(len(item.label) for item, _ in items)
            near = [y for x, y in _drawn(chart) if group[0][0] - 1 <= x <= end]
            lowest = min(near, default=chart.bottom) - 10
        placed = spread_apart([y for _, (_, y) in items], LABEL_GAP, TOP + 8.0, max(lowest, TOP + 8.0))
        for (item, (end, y)), height in zip(items, placed, strict=True):
            leader = polyline([(end + 7, y), (column - 4, height)], class_="leader")
            label = text(item.label, column, height + 4, class_="label")
            parts.append(element("g", leader, label, class_=f"series {item.look.tone} end-label", data_s=item.look.key))
    return joined(parts)
