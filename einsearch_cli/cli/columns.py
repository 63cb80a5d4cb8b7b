"""Tables that are wider than the terminal: the least important columns are left out, or else rows become cards."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

GAP: Final = "  "
_INDENT: Final = "    "


def fitted_lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    sample: Sequence[Sequence[str]],
    room: int,
    *,
    least: Sequence[str] | None = None,
    align_right: bool = False,
) -> Iterator[str]:
    """Lines of a table that fit a terminal; no row is broken.

    Args:
        header: names of the columns.
        rows: their cells.
        sample: the rows that settle the widths.
        room: width of the terminal, in characters.
        least: columns that may be left out, the least important first; all but the first two if None, the last first.
        align_right: whether all columns but the first are flush right.

    >>> rows = [["XA^1/2 XAB^1/2 YB", "0", "Dao et al. 2022"]]
    >>> print(*fitted_lines(["structure", "ω", "source"], rows, rows, 31), sep="\\n")
    structure          ω
    -----------------  -
    XA^1/2 XAB^1/2 YB  0
    left out, as the terminal is
    narrow: source; all: --format
    csv
    """
    widths = [max(map(len, column)) for column in zip(header, *sample, strict=True)]
    kept = chosen_columns(header, widths, room, header[:1:-1] if least is None else least)
    if kept is None:
        yield from _cards(header, rows, room)
        return

    def line(cells: Sequence[str]) -> str:
        padded = (
            cells[place].rjust(widths[place]) if align_right and place else cells[place].ljust(widths[place])
            for place in kept
        )
        return GAP.join(padded).rstrip()

    yield line(header)
    yield line(["-" * width for width in widths])
    yield from map(line, rows)
    if absent := [name for place, name in enumerate(header) if place not in kept]:
        yield from _pieces(f"left out, as the terminal is narrow: {', '.join(absent)}; all: --format csv", room)


def chosen_columns(header: Sequence[str], widths: Sequence[int], room: int, least: Sequence[str]) -> list[int] | None:
    """The places of columns that fit together, the most important chosen first; None if not even those needed fit.

    >>> chosen_columns(["name", "seeds", "loss"], [8, 5, 4], 14, ["seeds"]), chosen_columns(["name"], [9], 8, [])
    ([0, 2], None)
    """
    needed = [place for place, name in enumerate(header) if name not in least]
    kept: list[int] = []
    for place in (*needed, *(header.index(name) for name in reversed(least) if name in header)):
        if sum(widths[other] + len(GAP) for other in kept) + widths[place] <= room:
            kept.append(place)
        elif place in needed:
            return None
    return sorted(kept)


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
