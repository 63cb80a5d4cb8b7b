"""Small pieces of hand-made SVG: scales, ticks, markers, labels that do not overlap.

Coordinates are pixels of the figure's viewBox, y pointing down. Ticks and marks carry the numbers that they show
(`data-x`, `data-y`, `data-low`, `data-high`), so that a test can compare both number and position with the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from einsearch_cli.reports.markup import Html, element

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from data to pixels, linear in the value or in its logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = True

    def __call__(self, value: float) -> float:
        forward: Callable[[float], float] = math.log if self.logarithmic else float
        low, high = forward(self.low), forward(self.high)
        if high <= low:
            return (self.start + self.end) / 2
        share = (forward(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def padded_range(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Smallest and largest of positive `values`, moved apart by `share` of their log distance.

    >>> padded_range([1.0, 100.0], share=0.5)
    (0.1, 1000.0)
    """
    low, high = min(values), max(values)
    pad = math.pow(high / low, share) if high > low else 1.1
    return low / pad, high * pad


def log_ticks(low: float, high: float, most: int = 8) -> tuple[float, ...]:
    """Round values inside [low, high] for a log axis: 1-2-5 steps, or finer when the range is short.

    >>> log_ticks(0.008, 1.2)
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    >>> log_ticks(0.031, 0.048)
    (0.035, 0.04, 0.045)
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), (1.0, 3.0), (1.0,)):
        ticks = tuple(t for t in (float(f"{s:g}e{d}") for d in decades for s in steps) if low <= t <= high)
        if 4 <= len(ticks) <= most:
            return ticks
    if len(ticks) < 4:
        return _even_ticks(low, high)
    stride = -(-len(ticks) // most)
    return ticks[::stride]


def _even_ticks(low: float, high: float) -> tuple[float, ...]:
    """Evenly spaced round values, for a range too short for 1-2-5 steps."""
    decade = math.floor(math.log10((high - low) / 3))
    for step in (1.0, 2.0, 5.0, 10.0):
        width = step * 10.0**decade
        first, last = math.ceil(low / width), math.floor(high / width)
        if last - first < 6:
            break
    return tuple(float(f"{index * width:.12g}") for index in range(first, last + 1))


def linear_ticks(high: float) -> tuple[float, ...]:
    """Round values from 0 to at most `high`.

    >>> linear_ticks(8.5e12), linear_ticks(500)
    ((0.0, 2000000000000.0, 4000000000000.0, 6000000000000.0, 8000000000000.0), (0.0, 100.0, 200.0, 300.0, 400.0, 500.0))
    """
    return _even_ticks(0.0, high)


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to `wanted` that keep their order and are at least `gap` apart.

    Neighbours that would touch are moved as one block around their mean. The result
    stays inside [low, high] as long as it fits.

    >>> spread_apart([10.0, 11.0, 50.0], gap=10.0, low=0.0, high=100.0)
    [5.5, 15.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[int]] = []
    tops: list[float] = []
    for index in order:
        blocks.append([index])
        tops.append(_top(blocks[-1], wanted, gap, low, high))
        while len(blocks) > 1 and tops[-2] + gap * len(blocks[-2]) > tops[-1]:
            blocks[-2].extend(blocks.pop())
            tops.pop()
            tops[-1] = _top(blocks[-1], wanted, gap, low, high)
    placed = [0.0] * len(wanted)
    for block, top in zip(blocks, tops, strict=True):
        for offset, index in enumerate(block):
            placed[index] = top + offset * gap
    return placed


def _top(block: Sequence[int], wanted: Sequence[float], gap: float, low: float, high: float) -> float:
    length = gap * (len(block) - 1)
    middle = sum(wanted[index] for index in block) / len(block)
    return max(low, min(middle - length / 2, high - length))


def swarm(heights: Sequence[float], radii: Sequence[float], reach: float) -> list[float]:
    """Sideways offsets, at most `reach`, that keep discs at the given heights from overlapping.

    Discs are placed in the order given, each as near to the middle as is free; where
    nothing is free within reach, where they overlap least.

    >>> swarm([0.0, 1.0, 50.0], [5.0, 5.0, 5.0], reach=40.0)
    [0.0, 10.0, 0.0]
    """
    placed: list[tuple[float, float, float]] = []
    for height, radius in zip(heights, radii, strict=True):
        placed.append((_free_offset(placed, height, radius, reach), height, radius))
    return [offset for offset, _, _ in placed]


def _free_offset(placed: Sequence[tuple[float, float, float]], height: float, radius: float, reach: float) -> float:
    step = 2.0
    best, widest = 0.0, -math.inf
    for count in range(int(max(0.0, reach) / step) + 1):
        for offset in (count * step, -count * step):
            room = min((math.hypot(offset - x, height - y) - radius - r for x, y, r in placed), default=0.0)
            if room >= -0.1:
                return offset
            if room > widest:
                best, widest = offset, room
    return best


def polyline(points: Points, **attributes: str | float | None) -> Html:
    """A line through points."""
    return element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), **attributes)


_POLYGONS: dict[str, Points] = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.2), (1.12, 0.85), (-1.12, 0.85)),
    "wedge": ((0, 1.2), (1.12, -0.85), (-1.12, -0.85)),
    "hexagon": ((-0.55, -1), (0.55, -1), (1.1, 0), (0.55, 1), (-0.55, 1), (-1.1, 0)),
    "cross": (
        *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
        *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
    ),
}


def mark(shape: str, x: float, y: float, radius: float, **attributes: str | float | None) -> Html:
    """A marker centred on (x, y); `shape` is one of `looks.MARKERS`."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=radius, **attributes)
    corners = [(radius * dx, radius * dy) for dx, dy in _POLYGONS[shape]]
    outline = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z"
    return element("path", d=outline, transform=f"translate({x:.1f} {y:.1f})", **attributes)


_ARROW: Points = ((0, -1.3), (1.15, 0.4), (0.4, 0.4), (0.4, 1.3), (-0.4, 1.3), (-0.4, 0.4), (-1.15, 0.4))
"""An arrow that points up."""


def arrow(x: float, y: float, towards: tuple[float, float], radius: float, **attributes: str | float | None) -> Html:
    """An arrow centred on (x, y) that points in the direction of the vector `towards`."""
    corners = [(radius * dx, radius * dy) for dx, dy in _ARROW]
    outline = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z"
    turn = math.degrees(math.atan2(towards[0], -towards[1]))
    moved = f"translate({x:.1f} {y:.1f})" + (f" rotate({turn:.0f})" if turn else "")
    return element("path", d=outline, transform=moved, **attributes)


def data_of(**shown: float | Sequence[float]) -> dict[str, str]:
    """Attributes with the numbers that a mark shows; a sequence for the points of a line.

    >>> data_of(x=1e9, y=[0.5, 0.25])
    {'data_x': '1e+09', 'data_y': '0.5 0.25'}
    """
    return {
        f"data_{name}": " ".join(f"{number:.6g}" for number in (value if isinstance(value, Sequence) else (value,)))
        for name, value in shown.items()
    }


def text(content: str, x: float, y: float, **attributes: str | float | None) -> Html:
    return element("text", content, x=x, y=y, **attributes)


def swatch(shape: str, tone: str) -> Html:
    """The marker of a structure for use in a table."""
    return element("svg", mark(shape, 8.0, 8.0, 5.0), class_=f"swatch {tone}", viewBox="0 0 16 16", aria_hidden="true")
