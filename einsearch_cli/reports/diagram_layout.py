"""Places of the tensors and indices of a structure in its diagram.

X is on the left, Y on the right, the factors are between them in one row.
Neighbours are tied by straight lines. Every other index has a track, input
indices above the row and output indices below it, from which it goes straight
up or down to each of its tensors; if there are three or more of them, they meet
in a dot. The cut that limits the rank is one vertical line, as the tensors on
the input's side stand left of the others; indices that it crosses have their
label, and their dot, on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from einsearch_cli.sizing import SizedStructure
from einsearch_cli.taxonomy import Cut, meeting_order

MAX_ARRANGED_FACTORS = 6
"""The most factors whose orders are all tried for the shortest lines: 6! = 720."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One index: the tensors it ties, and where it runs."""

    carriers: str
    columns: tuple[int, ...]
    """Places of its tensors, left to right."""
    level: int
    """0 on the row of the tensors, 1, 2, … above it and -1, -2, … below."""
    crossing: bool
    """Whether the cut goes through it."""
    anchor: float
    """The place of its label, and of its dot if it has one: between two columns."""

    @property
    def is_hyperedge(self) -> bool:
        return len(self.columns) > 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of everything: tensors in columns, indices on tracks above and below them."""

    tensors: tuple[str, ...]
    wires: tuple[Wire, ...]
    cut: float
    """The gap between two columns where the cut is."""

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest track."""
        found = [wire.level for wire in self.wires]
        return min(0, *found), max(0, *found)

    def ports(self, column: int, upward: bool) -> tuple[str, ...]:
        """The indices that go up or down from a tensor, in an order in which their lines do not cross."""
        leaving = [w for w in self.wires if column in w.columns and (w.level > 0 if upward else w.level < 0)]
        left = sorted((w for w in leaving if w.anchor < column), key=lambda w: abs(w.level))
        right = sorted((w for w in leaving if w.anchor > column), key=lambda w: -abs(w.level))
        return tuple(w.carriers for w in (*left, *right))


def lay_out(sized: SizedStructure, cut: Cut) -> Layout:
    """Places for all tensors and indices of a structure."""
    tensors = arrangement(sized, cut)
    place = len(cut.input_side) - 0.5
    column = {tensor: place for place, tensor in enumerate(tensors)}
    columns = {c: tuple(sorted(column[t] for t in c)) for c, _ in sized.sizes}
    levels = _levels(columns)
    wires = tuple(
        Wire(c, places, levels[c], c in cut.indices, place if c in cut.indices else _middle(c, places))
        for c, places in columns.items()
    )
    return Layout(tensors, wires, place)


def arrangement(sized: SizedStructure, cut: Cut) -> tuple[str, ...]:
    """The tensors from left to right: X and what is on its side of the cut, the others, Y.

    Within that, the lines are as short as can be; among equals, the factors
    stand in the order in which they meet the activation.
    """
    order = meeting_order(sized)
    inside = [f for f in order if f in cut.input_side]
    outside = [f for f in order if f in cut.output_side]
    if len(order) > MAX_ARRANGED_FACTORS:
        return ("X", *inside, *outside, "Y")
    candidates = (("X", *a, *b, "Y") for a in permutations(inside) for b in permutations(outside))
    return min(candidates, key=lambda tensors: _length(tensors, [c for c, _ in sized.sizes]))


def _length(tensors: Sequence[str], indices: Iterable[str]) -> int:
    column = {tensor: place for place, tensor in enumerate(tensors)}
    return sum(max(column[t] for t in c) - min(column[t] for t in c) for c in indices)


def _middle(carriers: str, columns: Sequence[int]) -> float:
    """The gap in the middle of an index, or the one next to it that is nearer to its X or Y."""
    middle = (columns[0] + columns[-1]) / 2
    if middle == int(middle):
        middle += 0.5 if "Y" in carriers else -0.5
    return middle


def _levels(columns: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Tracks near the row for short indices, so that lines cross little."""
    levels: dict[str, int] = {}
    for carriers in sorted(columns, key=lambda c: (columns[c][-1] - columns[c][0], columns[c])):
        places = columns[carriers]
        if len(places) == 2 and places[1] == places[0] + 1:
            levels[carriers] = 0
        elif "X" in carriers:
            levels[carriers] = _free(places, columns, levels, 1)
        elif "Y" in carriers:
            levels[carriers] = -_free(places, columns, levels, -1)
        else:
            up, down = _free(places, columns, levels, 1), _free(places, columns, levels, -1)
            levels[carriers] = up if up <= down else -down
    return levels


def _free(
    places: Sequence[int], columns: Mapping[str, Sequence[int]], levels: Mapping[str, int], direction: int
) -> int:
    """The first track in a direction on which nothing overlaps."""
    taken = {
        abs(level)
        for carriers, level in levels.items()
        if level * direction > 0 and columns[carriers][0] < places[-1] and places[0] < columns[carriers][-1]
    }
    return next(level for level in range(1, len(columns) + 2) if level not in taken)
