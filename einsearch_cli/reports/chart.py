"""A chart as data: axes and series with values and intervals, from which `drawing` makes SVG.

Coordinates are pixels of a chart's viewBox, y pointing down. Names stand at the ends of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from einsearch_cli.reports.looks import Look
from einsearch_cli.reports.plot import Scale, linear_ticks, log_ticks, padded_range

Place = tuple[float, float]
"""A pixel: x to the right, y down."""

TOP, BOTTOM = 26, 42
COLUMN = 22
"""Pixels between the end of a line and its name."""
CHARACTER = 8.4
"""Width of a bold letter of DejaVu Sans, the widest font, on average over names like 'XA^1/2 XAB^1/2'."""
DIGIT, SUPERSCRIPT = 0.64, 0.41
"""Widths of digits of DejaVu Sans, as shares of the font's size."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its range, and the values that have a tick."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    """Pairs of a value and its label."""
    logarithmic: bool = True
    places: Mapping[float, tuple[float, float]] | None = None
    """Centre and half width of each category, as shares of the axis; None for an axis of numbers."""
    has_grid: bool = True
    are_rows: bool = False
    """Whether labels stand inside the chart, above the marks of their category."""

    def place(self, value: float, start: float, end: float) -> float:
        """The pixel of a value on an axis that runs from `start` to `end`."""
        if self.places is not None:
            return start + self.places[value][0] * (end - start)
        return Scale(self.low, self.high, start, end, self.logarithmic)(value)

    def with_labels(self, words: Callable[[float], str]) -> Axis:
        """The axis with other words at its ticks."""
        return replace(self, ticks=[(value, words(value)) for value, _ in self.ticks])

    def holds(self, value: float) -> bool:
        return self.places is not None or self.low >= self.high or self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """The value itself, or the end of the axis beyond which it lies."""
        return value if self.holds(value) else min(max(value, self.low), self.high)


def log_axis(name: str, values: Sequence[float], pad: float = 0.06, most: int = 8) -> Axis:
    """A logarithmic axis over positive values, with round ticks."""
    low, high = padded_range(values, pad)
    return Axis(name=name, low=low, high=high, ticks=[(tick, f"{tick:g}") for tick in log_ticks(low, high, most)])


def linear_axis(name: str, high: float) -> Axis:
    """A linear axis from 0 to `high`, with round ticks."""
    ticks = [(tick, f"{tick:,g}") for tick in linear_ticks(high)]
    return Axis(name=name, low=0.0, high=high, ticks=ticks, logarithmic=False, has_grid=False)


def category_axis(name: str, sizes: Mapping[float, float], labels: Sequence[str], are_rows: bool = False) -> Axis:
    """An axis of categories next to each other; `sizes` says how much room each one gets."""
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
    """'dot', 'hollow', 'faint', or 'badge': a disc with a label in it. Axes are made for the others: a point that
    lies outside of them is an arrow at the edge."""
    tip: str | None = None
    """Facts shown on hover, one per line."""
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
    """Marks with one look and one name."""

    look: Look
    points: Sequence[Point] = ()
    lines: Sequence[Line] = ()
    name: str = ""
    """The name in the legend."""
    label: str = ""
    """The name at the end of the lines."""
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
    least_left: int = 62
    """The least room on the left, for the labels of the upright axis."""

    def tick_width(self, label: str) -> float:
        """Pixels of a tick's label in the size that it has on a phone, where a wide chart is shrunk and its text is not."""
        size = max(13.0, 10 * self.width / 330)  # as in style.css
        return size * sum(SUPERSCRIPT if letter in "⁰¹²³⁴⁵⁶⁷⁸⁹⁻" else DIGIT for letter in label)

    @property
    def left(self) -> float:
        labels = [] if self.y.are_rows else [label for _, label in self.y.ticks]
        return max([float(self.least_left), *(10 + self.tick_width(label) for label in labels)])

    @property
    def tick_room(self) -> float:
        """Pixels on the right for the second half of the last tick's label."""
        labels = [label for _, label in self.x.ticks[-1:]] if self.x.places is None else []
        return max([14.0, *(self.tick_width(label) / 2 for label in labels)])

    @property
    def label_room(self) -> float:
        """Pixels on the right for the longest name at the end of a line, or without names for the last tick."""
        longest = max((len(item.label) for item in self.series), default=0)
        aside = max((item.dodge for item in self.series if item.label), default=0.0)
        return COLUMN + 14 + max(aside, 0.0) + CHARACTER * longest if longest else self.tick_room

    @property
    def shown(self) -> float:
        """Pixels of the part that narrow screens show, without the names at the ends of lines."""
        return min(float(self.width), self.right + max(30.0, self.tick_room))

    @property
    def right(self) -> float:
        return self.width - self.label_room

    @property
    def bottom(self) -> float:
        return float(self.height - BOTTOM)

    def holds(self, point: Point) -> bool:
        """Whether a point lies within the axes."""
        return self.x.holds(point.x) and self.y.holds(point.y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a pair of values."""
        return self.x.place(x, self.left, self.right), self.y.place(y, self.bottom, TOP)
