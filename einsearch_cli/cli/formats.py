"""Lists of structures in every output format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from einsearch_cli.cli import console
from einsearch_cli.cli.columns import folded_lines


class Format(StrEnum):
    """How results are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    yaml = "yaml"
    markdown = "markdown"


class TableFormat(StrEnum):
    """How one table is written."""

    table = "table"
    json = "json"
    csv = "csv"


Row = Mapping[str, Any]


def render(rows: Sequence[Row], objects: Sequence[Row], output: Format) -> str:
    """Rows for people (table, csv, markdown) or whole objects for programs (json, jsonl).

    YAML lists the structures alone, as a study reads them.
    """
    if output is Format.json:
        return json.dumps(list(objects), indent=2, ensure_ascii=False)
    if output is Format.jsonl:
        return "\n".join(json.dumps(item, ensure_ascii=False) for item in objects)
    if output is Format.csv:
        return _csv(rows)
    if output is Format.yaml:
        return "structures:\n" + "\n".join(f"- {row['structure']}" for row in rows) if rows else "structures: []"
    return table(rows, "github" if output is Format.markdown else "simple")


def table(rows: Sequence[Row], style: str = "simple", align_right: bool = False) -> str:
    """Rows as aligned text; if asked to, all columns but the first are flush right.

    On a terminal that is too narrow, cells are folded.
    """
    from tabulate import tabulate

    if not rows:
        return ""
    header, cells = list(rows[0]), [list(map(str, row.values())) for row in rows]
    sides = ["left", *["right"] * (len(header) - 1)] if align_right else None
    text = tabulate(cells, headers=header, tablefmt=style, disable_numparse=True, colalign=sides)
    room = None if style == "github" else console.width()
    if room is None or max(map(len, text.splitlines())) <= room:
        return text
    return "\n".join(folded_lines(header, cells, cells, room, align_right=align_right))


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def ratio(part: float, whole: float) -> str:
    """`0.0625x`: a share of the dense layer's cost.

    >>> ratio(65536, 1048576)
    '0.0625x'
    """
    return f"{part / whole:.3g}x"
