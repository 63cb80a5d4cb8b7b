"""Reads the figures of a page as a person does: by the ticks and the places of the marks.

Reading a figure checks it: labels of ticks give their values, axes rise to the right and upwards, and every mark is at
the place of its numbers. Tests compare these numbers with the source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree.ElementTree import Element, TreeBuilder

import pytest

from einsearch_cli.reports.chart import TOP

EDGE = 7.0
"""An arrow at an edge is at most this far inside of it."""
PIXEL = 0.3
"""Coordinates are rounded to a tenth of a pixel."""
SHARE = 0.01
"""Numbers read off the axes agree to one percent."""
MARKS = {"dot", "faint", "hollow", "badge", "bar", "line", "median", "beyond"}
"""Classes of elements that show a number."""
_VOID = {"meta", "br", "hr", "col", "input", "img", "link"}
_LETTERS = {"k": 1e3, "M": 1e6, "G": 1e9}
_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")

Place = tuple[float, float]


class _Tree(HTMLParser):
    """The elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.builder = TreeBuilder()
        self.builder.start("page", {})
        self.feed(page)
        self.builder.end("page")
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)


def said(label: str) -> tuple[float, float]:
    """The number on a tick, and half of its last digit.

    >>> said("2.5×10¹⁰"), said("10³"), said("1,200"), said("0.05"), said("25%"), said("1/2"), said("1.5k")
    ((25000000000.0, 500000000.0), (1000.0, 0.0), (1200.0, 0.5), (0.05, 0.005), (25.0, 0.5), (0.5, 0.0), (1500.0, 50.0))
    """
    if label[-1] in _LETTERS:
        number, rounding = said(label[:-1])
        return number * _LETTERS[label[-1]], rounding * _LETTERS[label[-1]]
    plain = label.translate(_DIGITS).replace(",", "").removesuffix("%")
    if "/" in plain:
        return float(Fraction(plain)), 0.0
    if re.fullmatch(r"10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", label):
        return 10.0 ** int(plain[2:]), 0.0
    mantissa, _, exponent = plain.replace("×10", "e").partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(f"{mantissa}e{exponent or 0}"), 0.5 * 10.0 ** (int(exponent or 0) - decimals)


@dataclass(frozen=True)
class Tick:
    label: str
    value: float
    place: float


class Axis:
    """The scale that follows from the ticks; places rise with values."""

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self.ticks = sorted(ticks, key=lambda tick: tick.place)
        self._check_labels()
        values = [tick.value for tick in self.ticks]
        assert values == sorted(values), f"an axis runs the wrong way: {values}"
        ways: tuple[tuple[Callable[[float], float], Callable[[float], float]], ...] = (
            (math.log, math.exp),
            (float, float),
        )
        usable = [(forward, back) for forward, back in ways if self._fits(forward)]
        self._scale = usable[0] if usable else None
        self.is_linear = bool(usable) and usable[0][0] is float
        self.is_numeric = bool(usable)

    def _check_labels(self) -> None:
        whole = next((tick.value for tick in self.ticks if tick.label == "100%"), 100.0)
        for tick in self.ticks:
            number, rounding = said(tick.label)
            unit = whole / 100 if tick.label.endswith("%") else 1.0
            close = pytest.approx(tick.value, abs=1.01 * rounding * unit, rel=1e-5)
            assert number * unit == close, f"{tick.label} stands at {tick.value:g}"

    def _fits(self, forward: Callable[[float], float]) -> bool:
        if forward is math.log and self.ticks[0].value <= 0:
            return False
        first, last = self.ticks[0], self.ticks[-1]
        if first is last:
            return False
        per_unit = (last.place - first.place) / (forward(last.value) - forward(first.value))
        expected = (first.place + per_unit * (forward(t.value) - forward(first.value)) for t in self.ticks)
        return all(abs(tick.place - place) < PIXEL for tick, place in zip(self.ticks, expected, strict=True))

    def read(self, place: float) -> float:
        """The number at a place; on an axis of categories, that of the tick there."""
        if self._scale is None:
            near = min(self.ticks, key=lambda tick: abs(tick.place - place))
            return near.value if abs(near.place - place) < PIXEL else math.nan
        forward, back = self._scale
        first, last = self.ticks[0], self.ticks[-1]
        share = (place - first.place) / (last.place - first.place)
        return back(forward(first.value) + share * (forward(last.value) - forward(first.value)))

    def close(self, number: float) -> object:
        """A matcher for numbers that are as close as they can be read off."""
        span = self.ticks[-1].value - self.ticks[0].value
        return pytest.approx(number, rel=SHARE, abs=0.002 * span if self.is_linear else 0.0)

    def is_cut_off(self, number: float, place: float) -> bool:
        """Whether a mark ends at the edge of the figure, beyond the ticks, because its number is further out."""
        low, high = self.ticks[0], self.ticks[-1]
        shown = self.read(place)
        return (number < shown and place < low.place) or (number > shown and place > high.place)

    def stays_with_its_tick(self, place: float, own: float) -> bool:
        """Whether a mark that was moved sideways is still nearest to its own tick."""
        low, high = sorted((place, own))
        nearest = min(self.ticks, key=lambda tick: abs(tick.place - own))
        return not any(low < tick.place < high for tick in self.ticks if tick is not nearest)


@dataclass(frozen=True)
class Mark:
    """A drawn element, with the numbers that it shows."""

    kind: str
    key: str
    """Name of the series that the mark belongs to."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    ends: tuple[float, ...]
    """Low and high end of an interval."""
    dodge: float
    """Pixels by which the mark was moved sideways."""
    places: tuple[Place, ...]
    """Places of the mark; heights rise upwards here."""
    tip: str

    @property
    def is_upright(self) -> bool:
        """Whether an interval is vertical."""
        return self.places[0][0] == self.places[-1][0]


@dataclass(frozen=True)
class Panel:
    x: Axis | None
    y: Axis | None
    marks: tuple[Mark, ...]
    frame: tuple[Place, Place]
    """Lower left and upper right corner of the plot."""

    def of(self, kind: str) -> list[Mark]:
        return [mark for mark in self.marks if mark.kind == kind]

    def check(self) -> None:
        """Check that every mark is at the place of its numbers."""
        for mark in self.marks:
            if mark.kind == "beyond":
                self._check_arrow(mark)
                continue
            if mark.ends:
                self._check_interval(mark)
            for axis, numbers, places, dodge in (
                (self.x, mark.x, [x for x, _ in mark.places], mark.dodge),
                (self.y, mark.y, [y for _, y in mark.places], 0.0),
            ):
                if axis is not None and numbers and len(axis.ticks) > 1:
                    assert len(numbers) == len(places), mark
                    for number, place in zip(numbers, places, strict=True):
                        assert axis.read(place - dodge) == axis.close(number), mark
                        assert axis.stays_with_its_tick(place, place - dodge), mark

    def _check_arrow(self, mark: Mark) -> None:
        """An arrow stands at the edge beyond which its numbers lie."""
        sides = []
        for number, axis, at, place in (
            (mark.x[0], self.x, 0, mark.places[0][0] - mark.dodge),
            (mark.y[0], self.y, 1, mark.places[0][1]),
        ):
            assert axis is not None
            low, high = (corner[at] for corner in self.frame)
            if axis.is_numeric and number < axis.read(low):
                assert low <= place <= low + EDGE, mark
                sides.append(-1)
            elif axis.is_numeric and number > axis.read(high):
                assert high - EDGE <= place <= high, mark
                sides.append(1)
            else:
                assert axis.read(place) == axis.close(number), mark
        assert sides, f"an arrow for a point inside of the figure: {mark}"
        assert "outside of the chart" in mark.tip

    def _check_interval(self, mark: Mark) -> None:
        axis = self.y if mark.is_upright else self.x
        assert axis is not None
        ends = sorted(y if mark.is_upright else x for x, y in mark.places)
        for number, place in zip(mark.ends, ends, strict=True):
            assert axis.read(place) == axis.close(number) or axis.is_cut_off(number, place), mark


class Figure:
    """A figure of a page, by panel; the name of a single panel is ''."""

    def __init__(self, box: Element) -> None:
        drawings = box.findall("div/svg")
        self.panels = {drawing.attrib["data-panel"]: _panel(drawing) for drawing in drawings}
        self.title = drawings[0].attrib["aria-label"]
        self.text = " ".join("".join(box.itertext()).split())
        assert self.panels
        for panel in self.panels.values():
            panel.check()

    @property
    def panel(self) -> Panel:
        """The only panel."""
        (found,) = self.panels.values()
        return found


def _panel(drawing: Element) -> Panel:
    height = float(drawing.attrib["viewbox"].split()[3])
    ticks: dict[str, list[Tick]] = {}
    marks: list[Mark] = []
    for item, key, tip in _walk(drawing):
        words = item.attrib.get("class", "").split()
        if "tick" in words and item.attrib.keys() & {"data-x", "data-y"}:
            side = "x" if "data-x" in item.attrib else "y"
            place = float(item.attrib["x"]) if side == "x" else height - float(item.attrib["y"])
            ticks.setdefault(side, []).append(Tick("".join(item.itertext()), float(item.attrib[f"data-{side}"]), place))
        elif kinds := MARKS & set(words):
            (kind,) = kinds
            marks.append(_mark(item, kind, key, tip, height))
    x, y = (Axis(ticks[side]) if side in ticks else None for side in ("x", "y"))
    [floor] = [item.attrib for item in drawing.iter() if item.attrib.get("class") == "axis"]
    corners = ((float(floor["x1"]), height - float(floor["y1"])), (float(floor["x2"]), height - TOP))
    return Panel(x, y, tuple(marks), corners)


def _walk(item: Element, key: str = "", tip: str = "") -> Iterator[tuple[Element, str, str]]:
    """Elements with the series and the tip that hold for them."""
    key = item.attrib.get("data-s", key)
    tip = item.attrib.get("data-tip", tip)
    yield item, key, tip
    for child in item:
        yield from _walk(child, key, tip)


def _mark(item: Element, kind: str, key: str, tip: str, height: float) -> Mark:
    given = {name: _numbers(item.attrib.get(f"data-{name}", "")) for name in ("x", "y", "low", "high", "dodge")}
    assert any(given.values()), f"a {kind} without a number: {item.attrib}"
    places = tuple((x, height - y) for x, y in _places(item))
    dodge = given["dodge"][0] if given["dodge"] else 0.0
    return Mark(kind, key, given["x"], given["y"], given["low"] + given["high"], dodge, places, tip)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


def _places(item: Element) -> list[Place]:
    at = item.attrib
    if item.tag == "circle":
        return [(float(at["cx"]), float(at["cy"]))]
    if item.tag == "line":
        return [(float(at["x1"]), float(at["y1"])), (float(at["x2"]), float(at["y2"]))]
    if moved := re.match(r"translate\((\S+) (\S+)\)", at.get("transform", "")):
        return [(float(moved[1]), float(moved[2]))]
    pairs = (pair.split() for pair in at["d"].removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def table_rows(page: str, head: str) -> list[list[list[str]]]:
    """The rows of the table with a column of this name: cells with the texts of their parts."""
    for found in _Tree(page).root.iter("table"):
        if head in ["".join(cell.itertext()) for cell in found.iter("th")]:
            body = found.find("tbody")
            assert body is not None
            return [[list(cell.itertext()) for cell in row.iter("td")] for row in body.iter("tr")]
    raise AssertionError(f"no table with a column {head!r}")


def figures(page: str) -> dict[str, Figure]:
    """Every figure of a page, or of a part of one, by its name."""
    boxes = (item for item in _Tree(page).root.iter("div") if item.find("div/svg[@class='plot']") is not None)
    return {box.attrib["id"]: Figure(box) for box in boxes}


@dataclass(frozen=True)
class Forest:
    """A small bar in a table; places are counted from the zero line."""

    key: str
    value: float | None
    place: float | None
    ends: tuple[float, ...]
    drawn: tuple[float, ...]
    edges: tuple[float, float]


def forests(page: str) -> list[Forest]:
    """The small bars of a page, from top to bottom."""
    found = []
    for item, key, _ in _walk(_Tree(page).root):
        if item.tag == "svg" and "forest" in item.attrib["class"].split():
            zero = float(next(line for line in item if line.attrib["class"] == "zero").attrib["x1"])
            marks = {
                part.attrib["class"]: _mark(part, part.attrib["class"], key, "", 0.0)
                for part in item
                if part.attrib["class"] in MARKS
            }
            dot, bar = marks.get("dot"), marks.get("bar")
            width = float(item.attrib["viewbox"].split()[2])
            found.append(
                Forest(
                    key,
                    dot.x[0] if dot else None,
                    dot.places[0][0] - zero if dot else None,
                    bar.ends if bar else (),
                    tuple(x - zero for x, _ in bar.places) if bar else (),
                    (-zero, width - zero),
                )
            )
    return found


def rising(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
