"""The measurements of a coordinate check, and how they change as networks become wider."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from einsearch_cli.structures import LayerSpec, parse_layer, short_name

HEALTHY_SLOPE: Final = 0.25
"""Exponents of the width within ± this value are healthy; with rules that do not fit, they are ±1/2 or ±1."""
WARNED_SLOPE: Final = 0.5
"""Beyond ± this value, a learning rate is not expected to carry over."""


@dataclass(frozen=True, slots=True)
class LayerCoordinates:
    """Root mean squares of one layer's outputs on held-out data, over samples and features."""

    structure: LayerSpec
    width: int
    layer: str
    start: float
    """Root mean square of the outputs of the untrained network."""
    changes: tuple[float, ...]
    """Root mean square of the change of outputs after 1 and 10 steps at the full learning rate, without warm-up."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the structure as text; `from_json` reads them back."""
        plain = {"structure": str(self.structure), "width": self.width, "layer": self.layer, "start": self.start}
        return {**plain, "changes": list(self.changes)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LayerCoordinates:
        """Read what `to_json` wrote."""
        return cls(parse_layer(row["structure"]), row["width"], row["layer"], row["start"], tuple(row["changes"]))


@dataclass(frozen=True, slots=True)
class WidthTrend:
    """How the outputs of one layer change as the network becomes wider, as exponents of the width; 0 is ideal."""

    structure: LayerSpec
    layer: str
    start: float
    """rms at the start, at the widest network."""
    change: float
    """rms of the change after the last step, at the widest network."""
    start_slope: float | None
    """Exponent of the rms at the start; None if an output starts at zero, as that of the head does."""
    change_slope: float | None

    @property
    def worst(self) -> float:
        """The slope that is farthest from 0."""
        return max(
            (slope for slope in (self.start_slope, self.change_slope) if slope is not None), key=abs, default=0.0
        )


def width_trends(found: Iterable[LayerCoordinates]) -> tuple[WidthTrend, ...]:
    """Slopes of log rms over log width by least squares, for layers that were checked at two widths or more.

    >>> from einsearch_cli.structures import parse_structure
    >>> dense = parse_structure("dense")
    >>> narrow, wide = (LayerCoordinates(dense, width, "0", 1.0, (0.1, width / 640)) for width in (64, 128))
    >>> [trend] = width_trends([narrow, wide])
    >>> (trend.start_slope, trend.change_slope)
    (0.0, 1.0)
    """
    grouped: dict[tuple[LayerSpec, str], list[LayerCoordinates]] = {}
    for item in found:
        grouped.setdefault((item.structure, item.layer), []).append(item)
    trends = []
    for (structure, layer), items in grouped.items():
        items.sort(key=lambda item: item.width)
        if items[0].width < items[-1].width:
            start = [(item.width, item.start) for item in items]
            change = [(item.width, item.changes[-1]) for item in items]
            ends = items[-1].start, items[-1].changes[-1]
            trends.append(WidthTrend(structure, layer, *ends, _slope(start), _slope(change)))
    return tuple(trends)


def _slope(points: list[tuple[int, float]]) -> float | None:
    import numpy as np

    if min(value for _, value in points) <= 0:
        return None
    x, y = zip(*((math.log(width), math.log(value)) for width, value in points), strict=True)
    return round(float(np.polyfit(x, y, 1)[0]), 6)


def worst_trends(found: Iterable[LayerCoordinates]) -> dict[LayerSpec, WidthTrend]:
    """For each structure, the layer whose outputs change most with the width."""
    worst: dict[LayerSpec, WidthTrend] = {}
    for trend in width_trends(found):
        if trend.structure not in worst or abs(trend.worst) > abs(worst[trend.structure].worst):
            worst[trend.structure] = trend
    return worst


def trend_warnings(found: Iterable[LayerCoordinates]) -> tuple[str, ...]:
    """One sentence for every structure whose learning rate is not expected to carry over to other widths."""
    return tuple(
        f"{short_name(structure)}: outputs of {trend.layer} go as width^{trend.worst:+.2f} in the coordinate check: "
        "its learning rate may not carry over to other widths"
        for structure, trend in worst_trends(found).items()
        if abs(trend.worst) > WARNED_SLOPE
    )
