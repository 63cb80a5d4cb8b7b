"""The tensor network of a structure as hand-made SVG that stands alone, and as PNG."""

from __future__ import annotations

import math
import os
import textwrap

from einsearch_cli.errors import OutputError
from einsearch_cli.files import open_atomically
from einsearch_cli.lazy import optional_package
from einsearch_cli.reports.diagram_network import COLOURS, CUT_COLOUR, INK, PAPER, TensorNetwork
from einsearch_cli.reports.diagram_text import legend
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.structures import family_text
from einsearch_cli.taxonomy import Classification

ZOOM = 2
"""Pixels of a PNG for a unit of the drawing: sharp on screens of high density."""
LEFT = 30.0
MIN_WIDTH = 900.0
LINE = 21.0
SOFT, RULE = "#5b626d", "#e2e3df"
FONT = "'DejaVu Sans', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
MONO = "'DejaVu Sans Mono', Consolas, monospace"


def diagram_svg(item: Classification) -> str:
    """One SVG document: tensors as boxes, indices as lines, the limiting cut dashed, and what it all means.

    >>> from einsearch_cli.structures import parse_structure
    >>> from einsearch_cli.taxonomy import classify
    >>> diagram_svg(classify(parse_structure("monarch"))).startswith('<svg xmlns=')
    True
    """
    network = TensorNetwork.of(item)
    width = math.ceil(max(MIN_WIDTH, network.row + network.node_width(0) + 4 * LEFT))
    head = _head(item, width)
    x = (width - network.row) / 2
    y = 96 + LINE * len(head) - network.top
    rule = y + network.bottom + 46
    foot = _foot(item, rule + LINE)
    height = math.ceil(rule + 34 + LINE * len(foot))
    return element(
        "svg",
        element("title", f"Tensor network of {_name(item)}"),
        element("rect", width=width, height=height, fill=PAPER),
        *head,
        element("g", network.svg(x - LEFT), transform=f"translate({x:g} {y:g})"),
        element("line", x1=LEFT, x2=width - LEFT, y1=rule, y2=rule, stroke=RULE),
        *foot,
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        font_family=FONT,
        font_size=13,
        fill=INK,
        role="img",
    )


def _name(item: Classification) -> str:
    return family_text(item.structure) or f"a {item.family} structure"


def _head(item: Classification, width: float) -> list[Html]:
    """Name, carrier sets, and the subject of the drawing."""
    carriers = textwrap.wrap(str(item.structure), int((width - 2 * LEFT) / 8))
    notes = ["y = W x: x enters at X, y leaves at Y, and W is the einsum of the factors between them."]
    notes += [item.padding] if item.padding else []
    fonts = [(line, MONO) for line in carriers] + [(line, None) for line in notes]
    lines = [element("text", _name(item), x=LEFT, y=36, font_size=20, font_weight=700)]
    for line, font in fonts:
        lines.append(element("text", line, x=LEFT, y=39 + LINE * len(lines), font_family=font, fill=SOFT))
    return lines


def _foot(item: Classification, top: float) -> list[Html]:
    """The explanation of ω, ψ and ν, then of the marks."""
    lines: list[Html] = []
    for symbol, meaning in legend(item):
        y = top + LINE * len(lines)
        name = element("text", symbol, x=LEFT, y=y, font_weight=700)
        lines.append(element("g", name, element("text", meaning, x=LEFT + 92, y=y)))
    return [*lines, _key(top + LINE * len(lines) + 6, item.structure.is_block_diagonal)]


def _key(y: float, shared: bool) -> Html:
    """The marks, in one line."""
    parts: list[Html] = []
    x = LEFT
    for colour, dash, name in (
        (COLOURS["X"], None, "input index"),
        (COLOURS["Y"], None, "output index"),
        *([(COLOURS["XY"], None, "in both")] if shared else []),
        (COLOURS[""], None, "bond"),
        (CUT_COLOUR, "6 5", "cut that limits the rank"),
    ):
        parts += [
            element("line", x1=x, x2=x + 26, y1=y - 4, y2=y - 4, stroke=colour, stroke_width=3, stroke_dasharray=dash),
            element("text", name, x=x + 33, y=y, fill=SOFT),
        ]
        x += 47 + 6.5 * len(name)
    dot = element("circle", cx=x + 6, cy=y - 4, r=5, fill=INK)
    return joined([*parts, dot, element("text", "one index in 3 or more tensors", x=x + 18, y=y, fill=SOFT)])


def write_png(path: str | os.PathLike[str], svg: str) -> None:
    """Draw an SVG document into a PNG file, through resvg, which needs no other library on the system.

    Raises:
        OutputError: if resvg is not installed, or the file cannot be written.
    """
    needs = f"cannot draw {os.fspath(path)!r}: PNG needs the package resvg-py"
    resvg = optional_package("resvg_py", needs, "pip install 'einsearch[png]', or write .svg", OutputError)
    picture = bytes(resvg.svg_to_bytes(svg_string=svg, zoom=ZOOM))
    with open_atomically(path) as file:
        file.write(picture)
