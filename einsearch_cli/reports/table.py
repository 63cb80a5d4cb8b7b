"""Tables of the pages as data: rows of cells, each with its look."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from einsearch_cli.reports.looks import Look
from einsearch_cli.reports.markup import NOTHING, Html
from einsearch_cli.reports.numbers import MISSING
from einsearch_cli.reports.page import fill
from einsearch_cli.reports.plot import swatch
from einsearch_cli.structures import LayerSpec, short_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell."""

    text: str = ""
    below: str = ""
    """Smaller text under it, such as an interval."""
    kind: str = ""
    """'number', 'name', 'error' or nothing."""
    drawing: Html = NOTHING
    badge: str = ""
    """CSS class of a badge around the text."""
    tip: str = ""
    """The text shown on hover."""
    link: str = ""
    """Identifier of the part of the page that the text leads to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Cells, or a divider: text across the whole table, between rows that are sorted separately."""

    cells: Sequence[Cell] = ()
    look: Look | None = None
    divider: str = ""


def card_id(look: Look | None) -> str:
    """Identifier of a structure's card in its page; empty without a look.

    >>> card_id(Look("s3", "c1", "circle"))
    'card-s3'
    """
    return "" if look is None else f"card-{look.key}"


def table(
    heads: Sequence[str],
    rows: Sequence[Row],
    numbers: Collection[str] = (),
    caption: str = "",
    summary: str = "",
    is_filtered: bool = False,
) -> Html:
    """A table that a click on a head sorts.

    Args:
        heads: name of each column.
        rows: from top to bottom.
        numbers: the columns that are aligned on the right.
        caption: shown below.
        summary: if given, the table is folded away under this line.
        is_filtered: whether it has a box above whose words choose rows.
    """
    return fill(
        "table.html",
        heads=heads,
        rows=rows,
        numbers=numbers,
        caption=caption,
        summary=summary,
        is_filtered=is_filtered,
    )


def without_constants(
    heads: Sequence[str], rows: Sequence[Row], keep: Collection[str] = ()
) -> tuple[tuple[str, ...], list[Row], list[str]]:
    """The columns that differ between rows, and a sentence for each that is left out because all its cells are equal.

    Columns without any value are left out silently. A table of one row stays as it is.

    >>> rows = [Row(cells=[number("64"), number(loss), number("3")]) for loss in ("0.5", "0.25")]
    >>> heads, kept, said = without_constants(("width", "loss", "seeds"), rows)
    >>> heads, [[cell.text for cell in row.cells] for row in kept], said
    (('loss',), [['0.5'], ['0.25']], ['The same in all rows: width 64, seeds 3.'])
    """
    columns = list(zip(*(row.cells for row in rows if row.cells), strict=True))
    if not columns or len(columns[0]) < 2:
        return tuple(heads), list(rows), []
    constant = {
        head: cells[0].text
        for head, cells in zip(heads, columns, strict=True)
        if head not in keep and len({(cell.text, cell.below) for cell in cells}) == 1
    }
    left = [position for position, head in enumerate(heads) if head not in constant]
    named = ", ".join(f"{head} {text}" for head, text in constant.items() if text not in (MISSING, ""))
    return (
        tuple(heads[position] for position in left),
        [replace(row, cells=[row.cells[position] for position in left]) if row.cells else row for row in rows],
        [f"The same in all rows: {named}."] if named else [],
    )


def number(text: str, below: str = MISSING) -> Cell:
    """A cell aligned on the right."""
    return Cell(text=text, below="" if below == MISSING else below, kind="number")


def structure(spec: LayerSpec, look: Look | None = None, below: str = "") -> Cell:
    """The name of a structure, with its notation (unless that is the name) and further text below.

    With a look, the name leads to the structure's card.
    """
    name, notation = short_name(spec), str(spec)
    sign = NOTHING if look is None else swatch(look.marker, look.tone)
    said = [text for text in (notation if notation != name else "", below) if text]
    return Cell(text=name, below="; ".join(said), kind="name", drawing=sign, link=card_id(look))
