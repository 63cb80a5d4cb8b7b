"""The minimum of a curve measured at a few points, such as loss against log rate or log width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Edge = Literal["low", "high"]


@dataclass(frozen=True, slots=True)
class Vertex:
    """The lowest point of a parabola, or the best measured point if no parabola can be drawn."""

    at: float
    """x of the minimum, or of the best measured point unless `is_optimum`."""
    value: float
    """y of the minimum, or of the best measured point unless `is_optimum`."""
    curvature: float | None
    """Coefficient of x² in the parabola; None without a parabola."""
    edge: Edge | None
    """The end of the measured points at which the best one lies; y may fall further beyond it."""
    reason: str | None
    """Why this is not an optimum; None if it is."""

    @property
    def at_edge(self) -> bool:
        """Whether points beyond `edge` are needed for any conclusion."""
        return self.edge is not None

    @property
    def is_optimum(self) -> bool:
        """Whether measured points on both sides are worse, so the minimum lies between them."""
        return self.reason is None


def vertex(x: Sequence[float], y: Sequence[float]) -> Vertex:
    """The minimum of the parabola through the best point and its two neighbours (Brent 1973, ch. 5).

    An infinite or NaN y stands for a run that diverged. It bounds the search on its side, so the best point next to it
    is not at an edge, but no parabola passes through it.

    >>> found = vertex([0.0, 1.0, 2.0], [4.0, 1.0, 4.0])
    >>> found.at, found.value, found.is_optimum
    (1.0, 1.0, True)
    >>> vertex([0.0, 1.0], [2.0, 1.0]).edge
    'high'

    Raises:
        ValueError: fewer than one finite y, two equal x, or lengths that differ.
    """
    points = sorted(zip(x, y, strict=True))
    if len({at for at, _ in points}) < len(points):
        raise ValueError(f"each x may occur only once, found {[at for at, _ in points]}")
    finite = [i for i, (_, value) in enumerate(points) if math.isfinite(value)]
    if not finite:
        raise ValueError(f"no finite y among {len(points)} points")
    best = min(finite, key=lambda i: points[i][1])
    at, value = points[best]
    if best in (0, len(points) - 1):
        edge: Edge = "low" if best == 0 and len(points) > 1 else "high"
        few = " of fewer than three points" if len(points) < 3 else ""
        return Vertex(at, value, None, edge, f"the best point is the {_ENDS[edge]}{few}")
    (x0, y0), (x2, y2) = points[best - 1], points[best + 1]
    if not (math.isfinite(y0) and math.isfinite(y2)):
        return Vertex(at, value, None, None, "a neighbour of the best point diverged")
    left, right = (value - y0) / (at - x0), (y2 - value) / (x2 - at)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return Vertex(at, value, curvature, None, "the curve is flat around the best point")
    slope = left + curvature * (at - x0)  # derivative of the parabola at the best point
    shift = -slope / (2 * curvature)
    return Vertex(at + shift, value + slope * shift + curvature * shift * shift, curvature, None, None)


_ENDS = {"low": "lowest", "high": "highest"}
