"""Tables that are wider than the terminal: cells are folded, and where even that does not fit, rows become cards."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

GAP: Final = "  "
_INDENT: Final = "    "


def folded_lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    sample: Sequence[Sequence[str]],
    room: int,
    *,
    align_right: bool = False,
) -> Iterator[str]:
    """Lines of a table that fit a terminal.

    Args:
        header: names of the columns.
        rows: their cells.
        sample: the rows that settle the widths.
        room: width of the terminal, in characters.
        align_right: whether all columns but the first are flush right.

    >>> rows = [["XA^1/2 XAB^1/2 YB", "0"]]
    >>> print(*folded_lines(["structure", "ω"], rows, rows, 14), sep="\\n")
    structure    ω
    -----------  -
    XA^1/2       0
    XAB^1/2 YB
    """
    columns = list(zip(header, *sample, strict=True))
    natural = [max(map(len, column)) for column in columns]
    least = [max((len(word) for cell in column for word in cell.split()), default=1) for column in columns]
    widths = fitted(natural, least, room - len(GAP) * (len(columns) - 1))
    if widths is None:
        yield from _cards(header, rows, room)
        return
    yield from _folded(header, widths, align_right)
    yield GAP.join("-" * width for width in widths)
    for row in rows:
        yield from _folded(row, widths, align_right)


def fitted(natural: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths that fit the room, the column with most to give first; None if even the least widths do not fit.

    >>> fitted([17, 3, 40], [6, 3, 9], 40), fitted([17, 3, 40], [6, 3, 9], 17)
    ([17, 3, 20], None)
    """
    if sum(least) > room:
        return None
    widths = list(natural)
    while sum(widths) > room:
        spare = [(width, place) for place, width in enumerate(widths) if width > least[place]]
        widths[max(spare)[1]] -= 1
    return widths


def card(pairs: Sequence[tuple[str, str]], room: int | None) -> str:
    """Names with their values, the values flush left and folded where they do not fit.

    >>> print(card([("rank", "at most 64"), ("as yaml", "")], 15))
    rank     at
             most
             64
    as yaml
    """
    name_width = max(len(name) for name, _ in pairs)
    lines: list[str] = []
    for name, value in pairs:
        line = f"{name:<{name_width}}{GAP}{value}".rstrip()
        if room is None or len(line) <= room:
            lines.append(line)
        elif room - name_width - len(GAP) >= len(_INDENT):
            pieces = zip_longest([name], _pieces(value, room - name_width - len(GAP)), fillvalue="")
            lines += [f"{label:<{name_width}}{GAP}{piece}" for label, piece in pieces]
        else:
            lines += [*_pieces(name, room), *(_INDENT + piece for piece in _pieces(value, max(1, room - len(_INDENT))))]
    return "\n".join(lines)


def _folded(cells: Sequence[str], widths: Sequence[int], align_right: bool) -> Iterator[str]:
    columns = [_pieces(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for line in zip_longest(*columns, fillvalue=""):
        padded = (
            piece.rjust(width) if align_right and number else piece.ljust(width)
            for number, (piece, width) in enumerate(zip(line, widths, strict=True))
        )
        yield GAP.join(padded).rstrip()


def _pieces(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _cards(header: Sequence[str], rows: Iterable[Sequence[str]], room: int) -> Iterator[str]:
    """A line for each cell; an empty line between two rows."""
    names = max(map(len, header))
    for number, row in enumerate(rows):
        if number:
            yield ""
        for name, cell in zip(header, row, strict=True):
            pieces = _pieces(cell, max(1, room - names - len(GAP)))
            yield from (
                f"{label:<{names}}{GAP}{piece}".rstrip() for label, piece in zip_longest([name], pieces, fillvalue="")
            )
