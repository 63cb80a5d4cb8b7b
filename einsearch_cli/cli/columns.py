"""Tables that are wider than the terminal: text is folded, the least important columns are left out, or rows are cards."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

GAP: Final = "  "
_INDENT: Final = "    "
_FOLDED: Final = 14
"""Characters that a folded column has at least, if its text is that long: two terms of a structure."""


def fitted_lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    sample: Sequence[Sequence[str]],
    room: int,
    *,
    least: Sequence[str] | None = None,
    folded: Collection[str] = (),
    align_right: bool = False,
) -> Iterator[str]:
    """Lines of a table that fit a terminal; names of columns and the cells of `folded` ones may take several lines.

    Args:
        header: names of the columns.
        rows: their cells.
        sample: the rows that settle the widths.
        room: width of the terminal, in characters.
        least: columns that may be left out, the least important first; all but the first two if None, the last first.
        folded: columns of words, which stay readable when they are folded.
        align_right: whether all columns but the first are flush right.

    >>> rows = [["XA^1/2 XAB^1/2 YB", "0", "3.25 ± 0.12", "Dao et al. 2022"]]
    >>> print(*fitted_lines(["structure", "ω", "loss ± 95%", "source"], rows, rows, 32, folded=["structure"]), sep="\\n")
    structure         ω  loss ± 95%
    ----------------  -  -----------
    XA^1/2 XAB^1/2    0  3.25 ± 0.12
    YB
    left out, as the terminal is
    narrow: source; all: --format
    csv
    """
    columns = list(zip(header, *sample, strict=True))
    whole = [max(map(len, column)) for column in columns]
    widths = [_least_width(column, column[0] in folded) for column in columns]
    kept = chosen_columns(header, widths, room, header[:1:-1] if least is None else least)
    if kept is None:
        yield from _cards(header, rows, room)
        return
    for _ in range(room - sum(widths[place] for place in kept) - len(GAP) * (len(kept) - 1)):
        missing = [place for place in kept if widths[place] < whole[place]]
        if not missing:
            break
        widths[max(missing, key=lambda place: (header[place] in folded, whole[place] / widths[place]))] += 1

    def lines(cells: Sequence[str], may_fold: Collection[str]) -> Iterator[str]:
        pieces = [
            _pieces(cells[place], widths[place]) if header[place] in may_fold else [cells[place]] for place in kept
        ]
        for line in zip_longest(*pieces, fillvalue=""):
            yield GAP.join(
                piece.rjust(widths[place]) if align_right and place else piece.ljust(widths[place])
                for place, piece in zip(kept, line, strict=True)
            ).rstrip()

    yield from lines(header, header)
    yield from lines(["-" * width for width in widths], ())
    for row in rows:
        yield from lines(row, folded)
    if absent := [name for place, name in enumerate(header) if place not in kept]:
        yield from _pieces(f"left out, as the terminal is narrow: {', '.join(absent)}; all: --format csv", room)


def _least_width(column: Sequence[str], is_folded: bool) -> int:
    """The width below which a column is not made: the name is folded always, the cells only if `is_folded`."""
    words = (len(word) for text in (column if is_folded else column[:1]) for word in text.split())
    longest = max(map(len, column[1:]), default=0)
    return max((*words, min(longest, _FOLDED) if is_folded else longest))


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
