"""Tables of the pages as data: rows of cells, each with its look."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
    """What is said about it on hover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Cells, or a divider: text across the whole table, between rows that are sorted separately."""

    cells: Sequence[Cell] = ()
    look: Look | None = None
    divider: str = ""


def table(
    heads: Sequence[str], rows: Sequence[Row], numbers: Collection[str] = (), caption: str = "", summary: str = ""
) -> Html:
    """A table that a click on a head sorts.

    Args:
        heads: name of each column.
        rows: from top to bottom.
        numbers: the columns that are aligned on the right.
        caption: shown below.
        summary: if given, the table is folded away under this line.
    """
    return fill("table.html", heads=heads, rows=rows, numbers=numbers, caption=caption, summary=summary)


def number(text: str, below: str = MISSING) -> Cell:
    """A cell aligned on the right."""
    return Cell(text=text, below="" if below == MISSING else below, kind="number")


def structure(spec: LayerSpec, look: Look | None = None, below: str = "") -> Cell:
    """The name of a structure over its notation, if that is not the name already, and over what else is said of it."""
    name, notation = short_name(spec), str(spec)
    sign = NOTHING if look is None else swatch(look.marker, look.tone)
    said = [text for text in (notation if notation != name else "", below) if text]
    return Cell(text=name, below="; ".join(said), kind="name", drawing=sign)
