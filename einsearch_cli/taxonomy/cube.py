"""Structures as points of a cube, for samplers that search a continuous space.

Every index class has one coordinate. Coordinates of the input, rectified and divided by their sum, are the input
exponents, and likewise for the output. The exponent of a bond is its coordinate, rectified. So a class vanishes on a
whole part of the cube, not on a face without volume. That matters because structures worth training lie on such faces:
with two factors, ω = 0 needs an index class without an index, and a sample that is uniform on the simplex never has
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.normal_form import text_of_carriers
from einsearch_cli.structures.structure import Structure

UNIT: Final = 720
"""Exponents are multiples of 1/720: halves to sixths, eighths, tenths. At d = 10,000 neighbours differ by 1.3% in size.
"""
LEAST: Final = Fraction(1, 24)
"""The smallest exponent that is not taken as 0: d^(1/24) is 1.4 at d = 4096, which is not a useful index."""


@dataclass(frozen=True)
class Cube:
    """The points from which structures of up to `factors` factors are made.

    >>> str(Cube(2).structure([1, -1, 1, -1, 1, 1, -1]))
    'XA^1/2 XAB^1/2 YB^1/2 YAB^1/2'
    """

    factors: int

    @cached_property
    def _classes(self) -> IndexClasses:
        return IndexClasses(self.factors)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The carrier set of every coordinate, in the order of the θ vector."""
        return tuple(map(text_of_carriers, self._classes.carriers))

    @cached_property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The range of every coordinate; with it, a random point has about two indices of a side and one bond."""
        sides, bonds = len(self._classes.sides), len(self._classes.bonds)
        low_side, low_bond = -max(1.0, sides / 2 - 1), -max(1.0, bonds - 1.0)
        return ((low_side, 1.0),) * 2 * sides + ((low_bond, 1.0),) * bonds

    def structure(self, point: Sequence[float]) -> Structure:
        """The structure of a point, in normal form; it may have fewer factors."""
        sides = len(self._classes.sides)
        inputs, outputs, bonds = point[:sides], point[sides : 2 * sides], point[2 * sides :]
        numbers = [*_shares(inputs), *_shares(outputs), *(round(UNIT * max(0.0, value)) for value in bonds)]
        exponents = (Fraction(number, UNIT) for number in numbers)
        return Structure.of({
            name: Extent.power(exponent)
            for name, exponent in zip(self.names, exponents, strict=True)
            if exponent >= LEAST
        })  # fmt: skip

    def point(self, structure: Structure) -> list[float] | None:
        """A point whose structure is this one; None where it has fixed sizes, too many factors, or finer exponents.

        >>> cube, half = Cube(2), Structure.of({"XA": Extent.power(Fraction(1)), "YA": Extent.power(Fraction(1))})
        >>> cube.structure(cube.point(half)) == half
        True
        """
        if len(structure.factors) > self.factors or not all(extent.is_power for _, extent in structure.indices):
            return None
        exponents = {carriers: float(extent.exponent) for carriers, extent in structure.indices}
        largest = {
            tensor: max((value for carriers, value in exponents.items() if tensor in carriers), default=1.0)
            for tensor in "XY"
        }
        found = []
        for name, (low, _) in zip(self.names, self.ranges, strict=True):
            scale = next((largest[tensor] for tensor in "XY" if tensor in name), 1.0)
            found.append(exponents[name] / scale if name in exponents else low / 2)
        return found if self.structure(found) == structure.unordered else None

    def draw(self, random: np.random.Generator) -> NDArray[np.float64]:
        """A point that is uniform in the cube."""
        low, high = np.array(self.ranges).T
        return np.asarray(random.uniform(low, high))


def _shares(coordinates: Sequence[float]) -> list[int]:
    """Whole numbers of 1/UNIT in proportion to the positive coordinates, small ones set to 0; they sum to UNIT.

    Without a positive coordinate the largest one takes all.
    """
    positive = [max(0.0, value) for value in coordinates]
    if not any(positive):
        positive = [float(number == int(np.argmax(coordinates))) for number in range(len(coordinates))]
    least = float(LEAST) * sum(positive)
    kept = [value if value >= least else 0.0 for value in positive]
    exact = [UNIT * value / sum(kept) for value in kept]
    whole = list(map(math.floor, exact))
    # The largest remainders take what rounding down left.
    order = sorted(range(len(exact)), key=lambda number: whole[number] - exact[number])
    for number in order[: UNIT - sum(whole)]:
        whole[number] += 1
    return whole
