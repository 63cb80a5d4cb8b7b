"""The network of a diagram: tensors, lines, labels and the cut, as SVG around the row of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from einsearch_cli.reports.diagram_layout import Layout, Wire, lay_out
from einsearch_cli.reports.diagram_text import Label, cut_text, index_label, short_count
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.taxonomy import Classification

NODE_HEIGHT = 54.0
NODE_WIDTH = 84.0
PORT_GAP = 16.0
FIRST_TRACK = 84.0
TRACK_GAP = 56.0
CORNER = 26.0
CHARACTER = 7.6
"""Width of a character at 13 px, with some room: the ground of a label is as wide as its text."""
SMALL_CHARACTER = 5.6
SHIFT = 4.5

PAPER, INK, BOX = "#ffffff", "#1b1e23", "#f4f1e8"
COLOURS = {"X": "#0072b2", "Y": "#c24e00", "": "#00805c", "XY": "#7b3fa0"}
"""Colours of input, output, bond, and indices of both sides; they differ for common forms of colour blindness."""
CUT_COLOUR = "#b3204d"


@dataclass(frozen=True)
class TensorNetwork:
    """A layout in pixels: x from the middle of X, y down from the row of tensors."""

    item: Classification
    sized: SizedStructure
    layout: Layout

    @classmethod
    def of(cls, item: Classification) -> TensorNetwork:
        sized = item.structure.at(item.d_in, item.d_out)
        return cls(item, sized, lay_out(sized, item.cut))

    @cached_property
    def spacing(self) -> float:
        """Distance from one tensor to the next: room for the widest tensor and the longest label between them."""
        label = max(_length(index_label(wire.carriers, self.item)) for wire in self.layout.wires)
        node = max(self.node_width(column) for column in range(len(self.layout.tensors)))
        return node + label + 32

    @property
    def row(self) -> float:
        """Distance from the middle of X to the middle of Y."""
        return self.spacing * (len(self.layout.tensors) - 1)

    @property
    def top(self) -> float:
        """The highest line or label, above the row."""
        return -max(NODE_HEIGHT / 2, 18 - track_y(self.layout.levels[1]))

    @property
    def bottom(self) -> float:
        return max(NODE_HEIGHT / 2, 18 + track_y(self.layout.levels[0]))

    def x(self, place: float) -> float:
        return place * self.spacing

    def node_width(self, column: int) -> float:
        lines = max(len(self.layout.ports(column, upward)) for upward in (True, False))
        return max(NODE_WIDTH, PORT_GAP * lines + 10)

    def port(self, column: int, wire: Wire) -> float:
        ports = self.layout.ports(column, wire.level > 0)
        return self.x(column) + PORT_GAP * (ports.index(wire.carriers) - (len(ports) - 1) / 2)

    def svg(self, left: float) -> Html:
        """The whole diagram; text may start `left` of the middle of X."""
        return joined(
            [
                self._cut(left),
                *(self._wire(wire) for wire in self.layout.wires),
                *(self._node(column) for column in range(len(self.layout.tensors))),
                *(self._label(wire) for wire in self.layout.wires),
            ]
        )

    def _cut(self, left: float) -> Html:
        x, top = self.x(self.layout.cut), self.top - 28
        words = cut_text(self.item)
        middle = max(x, CHARACTER * len(words) / 2 - left)
        line = element(
            "line",
            x1=x,
            x2=x,
            y1=top + 8,
            y2=self.bottom + 34,
            stroke=CUT_COLOUR,
            stroke_width=2,
            stroke_dasharray="6 5",
        )
        text = element("text", words, x=middle, y=top, text_anchor="middle", fill=CUT_COLOUR, font_weight=700)
        return joined([line, text])

    def _wire(self, wire: Wire) -> Html:
        colour = colour_of(wire.carriers)
        y, anchor = track_y(wire.level), self.x(wire.anchor)
        if wire.level == 0:
            paths = [f"M{self.x(wire.columns[0]):g} 0H{self.x(wire.columns[-1]):g}"]
        else:
            paths = [_spoke(self.port(column, wire), anchor, y) for column in wire.columns]
        width = 4 if wire.crossing else 2.5
        parts = [element("path", d=d, fill="none", stroke=colour, stroke_width=width) for d in paths]
        if wire.is_hyperedge:
            parts.append(element("circle", cx=anchor, cy=y, r=6, fill=colour))
        return joined(parts)

    def _node(self, column: int) -> Html:
        tensor = self.layout.tensors[column]
        width, x = self.node_width(column), self.x(column)
        outside = {"X": f"in {_dimension(self.item.d_in)}", "Y": f"out {_dimension(self.item.d_out)}"}
        note = outside.get(tensor) or f"{short_count(self.sized.factor_params[tensor])} params"
        ink, ground = (PAPER, INK) if tensor in outside else (INK, BOX)
        box = element(
            "rect",
            x=x - width / 2,
            y=-NODE_HEIGHT / 2,
            width=width,
            height=NODE_HEIGHT,
            rx=NODE_HEIGHT / 2 if tensor in outside else 10,
            fill=ground,
            stroke=INK,
            stroke_width=1.5,
        )
        name = element("text", tensor, x=x, y=-1, text_anchor="middle", font_size=19, font_weight=700, fill=ink)
        return joined([box, name, element("text", note, x=x, y=16, text_anchor="middle", font_size=11, fill=ink)])

    def _label(self, wire: Wire) -> Html:
        """Exponent and size of an index, on a ground that covers the lines behind it."""
        label = index_label(wire.carriers, self.item)
        x, y, length = self.x(wire.anchor), track_y(wire.level), _length(label)
        if wire.is_hyperedge:
            y += math.copysign(19, y)
        ground = element("rect", x=x - length / 2, y=y - 11, width=length, height=21, rx=5, fill=PAPER)
        words = element("text", *_spans(label), x=x, y=y + 4.5, text_anchor="middle", fill=colour_of(wire.carriers))
        return joined([ground, words])


def track_y(level: int) -> float:
    """The height of a track: negative above the row."""
    if level == 0:
        return 0.0
    distance = FIRST_TRACK + TRACK_GAP * (abs(level) - 1)
    return -distance if level > 0 else distance


def colour_of(carriers: str) -> str:
    return COLOURS["".join(tensor for tensor in "XY" if tensor in carriers)]


def _dimension(d: int) -> str:
    return f"{d:,}" if d < 1_000_000 else short_count(d)


def _spoke(x: float, anchor: float, y: float) -> str:
    """A path from a tensor straight to the track of the index, round the corner, and on to its middle."""
    turn_x = x + math.copysign(CORNER, anchor - x)
    turn_y = y - math.copysign(CORNER, y)
    return f"M{x:g} 0V{turn_y:g}Q{x:g} {y:g} {turn_x:g} {y:g}H{anchor:g}"


def _length(label: Label) -> float:
    return sum(len(text) * (SMALL_CHARACTER if shift else CHARACTER) for text, shift in label) + 8


def _spans(label: Label) -> Iterable[Html]:
    """Raised and lowered parts; every shift is taken back by the next part."""
    height = 0
    for text, shift in label:
        small = 10 if shift else None
        yield element("tspan", text, dy=f"{SHIFT * (height - shift):g}", font_size=small)
        height = shift
