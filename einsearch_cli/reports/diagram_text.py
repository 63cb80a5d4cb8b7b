"""The words of a diagram, and the whole diagram as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from fractions import Fraction

from einsearch_cli.reports.diagram_layout import lay_out
from einsearch_cli.structures import Extent, family_text
from einsearch_cli.taxonomy import Classification

Label = list[tuple[str, int]]
"""Parts of a label with their heights: 1 is raised, -1 is lowered."""

COLUMN = 12
"""Characters from one tensor to the next."""


def index_label(carriers: str, item: Classification) -> Label:
    """`d^1/2 = 32`: the extent of an index and its size, which is the nearest that divides d.

    >>> from einsearch_cli.structures import parse_structure
    >>> from einsearch_cli.taxonomy import classify
    >>> index_label("XAB", classify(parse_structure("monarch"), 768, 768))
    [('d', 0), ('1/2', 1), (' ≈ 32', 0)]
    """
    extent = item.structure.extent(carriers)
    size = dict(item.sizes)[carriers]
    if extent.is_fixed:
        return [(f"{size:,}", 0)]
    base, name = _base(carriers, item)
    exact = abs(extent.at(base) - size) < 1e-6 * size
    return [*_power(extent, name), (f" {'=' if exact else '≈'} {size:,}", 0)]


def _base(carriers: str, item: Classification) -> tuple[int, str]:
    """The dimension that an exponent refers to, and its name if there are two."""
    if item.d_in == item.d_out:
        return item.d_in, ""
    side = {"X", "Y"} & set(carriers)
    # Bonds, and indices that X and Y share, refer to the smaller dimension.
    if side == {"X"} or (len(side) != 1 and item.d_in < item.d_out):
        return item.d_in, "in"
    return item.d_out, "out"


def _power(extent: Extent, name: str) -> Label:
    coefficient = extent.coefficient
    label: Label = []
    if coefficient.numerator != 1:
        label.append((f"{coefficient.numerator}·", 0))
    label.append(("d", 0))
    if name:
        label.append((name, -1))
    if extent.exponent != 1:
        label.append((str(extent.exponent), 1))
    if coefficient.denominator != 1:
        label.append((f"/{coefficient.denominator}", 0))
    return label


def plain(label: Label) -> str:
    """A label in one line: `d^1/2 = 32`, `d_in = 768`."""
    return "".join({0: "", 1: "^", -1: "_"}[shift] + text for text, shift in label)


def cut_text(item: Classification) -> str:
    """The sizes that the limiting cut goes through, and the rank that they allow."""
    sizes = [dict(item.sizes)[carriers] for carriers in item.cut.indices]
    shown = f"{item.rank_bound:,}"
    if len(sizes) > 1 and math.prod(sizes) == item.rank_bound:
        shown = " · ".join(f"{size:,}" for size in sizes) + f" = {shown}"
    whole = min(item.d_in, item.d_out)
    return f"rank ≤ {shown}" + (", can be full" if item.rank_bound == whole else f" of {whole:,}")


def short_count(number: int) -> str:
    """A count in three digits.

    >>> short_count(32768), short_count(512), short_count(2**40)
    ('32.8K', '512', '1.1T')
    """
    if number >= 10**15:
        return f"{number:.2g}"
    for unit, sign in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:.3g}{sign}"
    return str(number)


def legend(item: Classification) -> list[tuple[str, str]]:
    """Pairs of a symbol with its value, and its meaning for this structure."""
    sharing = f"parameters are shared: FLOPs per parameter grow as {_growth(item.omega)}"
    rank = f"the rank grows as {_growth(item.psi)}, not as d" if item.psi else "the rank does not grow with d"
    cost = (
        f"{item.params:,} parameters, {item.params / item.dense_params:.3g}× dense; {item.flops_per_token:,} FLOPs "
        f"per token, {item.flops_per_token / item.dense_flops_per_token:.3g}× dense"
    )
    return [
        (f"ω = {item.omega}", sharing if item.omega else "every FLOP has its own parameter"),
        (f"ψ = {item.psi}", "the rank can be full at every d" if item.psi == 1 else rank),
        (f"ν = {item.nu}", f"FLOPs per token grow as {_growth(1 + item.nu)}, those of a dense layer as d^2"),
        ("cost", cost),
    ]


def _growth(exponent: Fraction) -> str:
    return "d" if exponent == 1 else f"d^{exponent}"


def diagram_text(item: Classification, room: int | None = None) -> str:
    """The network for a terminal: a column for every tensor, a line for every index, │ where the cut is.

    Sentences are folded to `room` characters if given.

    >>> from einsearch_cli.structures import parse_structure
    >>> from einsearch_cli.taxonomy import classify
    >>> print(diagram_text(classify(parse_structure("low-rank"), 64, 64)).split("rank ≤")[0].rstrip())
    low-rank   XA^1 YB^1 AB^1/2
    <BLANKLINE>
          X           A     ┊     B           Y
    XA    ●───────────●     ┊                       d = 64
    AB                ●─────┼─────●                 d^1/2 = 8
    YB                      ┊     ●───────────●     d = 64
                            ┊
    """
    layout = lay_out(item.structure.at(item.d_in, item.d_out), item.cut)
    margin = max(len(wire.carriers) for wire in layout.wires) + 4
    cut = margin + round((len(item.cut.input_side) - 0.5) * COLUMN)
    width = margin + COLUMN * (len(layout.tensors) - 1) + 6
    head = _paint({margin + COLUMN * place: tensor for place, tensor in enumerate(layout.tensors)}, cut, width)
    ordered = sorted(layout.wires, key=lambda w: (w.columns, w.carriers))
    rows = [_row(wire.carriers, wire.columns, wire.crossing, margin, cut, width) for wire in ordered]
    labels = [plain(index_label(wire.carriers, item)) for wire in ordered]
    facts = [f"{symbol:<9} {meaning}" for symbol, meaning in legend(item)]
    title = f"{family_text(item.structure) or item.family}   {item.structure}"
    return "\n".join(
        [
            *_folded(title, room, 0),
            *(_folded(item.padding, room, 0) if item.padding else []),
            "",
            head.rstrip(),
            *(f"{row}{label}" for row, label in zip(rows, labels, strict=True)),
            " " * cut + "┊",
            " " * max(0, cut - 8) + cut_text(item),
            "",
            *(line for fact in facts for line in _folded(fact, room, 10)),
        ]
    )


def _folded(line: str, room: int | None, indent: int) -> list[str]:
    if room is None or len(line) <= room:
        return [line]
    return textwrap.wrap(line, max(room, indent + 1), subsequent_indent=" " * indent, break_on_hyphens=False)


def _paint(marks: dict[int, str], cut: int, width: int) -> str:
    line = [" "] * width
    line[cut] = "┊"
    for place, mark in marks.items():
        line[place] = mark
    return "".join(line)


def _row(carriers: str, columns: tuple[int, ...], crossing: bool, margin: int, cut: int, width: int) -> str:
    places = [margin + COLUMN * column for column in columns]
    marks = dict.fromkeys(range(places[0], places[-1] + 1), "─")
    if crossing:
        marks[cut] = "┼"
    marks |= dict.fromkeys(places, "●")
    row = _paint(marks, cut, width)
    return carriers + row[len(carriers) :]
