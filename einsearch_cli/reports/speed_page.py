"""The report of `einsearch bench` as one offline HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.figure_speed import OVERHEAD, SPEEDUP, speed_figure
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import duration_text
from einsearch_cli.reports.page import html_document
from einsearch_cli.reports.sections import caption
from einsearch_cli.reports.speed_table import by_case, speed_headline, speed_rows

if TYPE_CHECKING:
    from einsearch_cli.speed import BenchResult


def render_speed(result: BenchResult, command: str) -> str:
    """The page of a run that measured something."""
    sections = {
        "result": ("Result", joined(element("p", sentence) for sentence in speed_headline(result))),
        "facts": ("What was measured", _facts(result)),
        "speedup": ("Speed-up against what the FLOPs promise", joined([
            speed_figure(result, SPEEDUP),
            caption(
                "Higher is better; large marks are wide layers. Ratios are medians over rounds in which all layers of a",
                "case ran in turn. A layer may lie above the diagonal: nn.Linear spends time on other things than FLOPs too.",
            ),
        ])),
        "overhead": ("Time over that of the bare matrix products", joined([
            speed_figure(result, OVERHEAD),
            caption(
                "Lower is better. The bare products are the layer's own, on contiguous operands, with results in",
                "memory that is there already, and nothing else: no bias, scaling, views or copies.",
            ),
        ])),
        "figures": ("All figures", _table(speed_rows(result))),
        "repeat": ("Repeat it", _repeat(result, command)),
    }  # fmt: skip
    parts = [
        element("section", element("h2", title), inside, id=f"section-{name}")
        for name, (title, inside) in sections.items()
    ]
    return html_document(f"Speed of layers on {result.machine['device']}", "einsearch bench", parts)


def write_speed(path: str | os.PathLike[str], result: BenchResult, command: str) -> None:
    """Write the page whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    write_atomically(path, render_speed(result, command) + "\n")


def _facts(result: BenchResult) -> Html:
    cases = [case for case, _ in by_case(result)]
    facts = (
        ("Layers", str(len({item.name for item in result.measurements}))),
        ("Cases", str(len(cases))),
        ("Widths", ", ".join(str(width) for width in sorted({case.width for case in cases}))),
        ("Type", str(result.settings["dtype"])),
        ("Threads", str(result.settings["threads"])),
        ("Clock", str(result.settings["clock"])),
        ("Time", duration_text(result.elapsed_s)),
    )
    tiles = (
        element("div", element("dt", name), element("dd", value), class_="wide" if len(value) > 14 else None)
        for name, value in facts
    )
    return element("dl", *tiles, class_="facts")


def _table(rows: list[dict[str, str]]) -> Html:
    heads = element("tr", *(element("th", name) for name in rows[0]))
    body = [
        element(
            "tr",
            *(
                element("td", value, class_="number" if column not in (0, 4) else None)
                for column, value in enumerate(cells)
            ),
        )
        for cells in (row.values() for row in rows)
    ]
    inside = element("table", element("thead", heads), element("tbody", *body))
    return element("div", inside, class_="scroll", tabindex="0")


def _repeat(result: BenchResult, command: str) -> Html:
    facts: Mapping[str, object] = {**result.machine, **result.settings}
    rows = [
        element("tr", element("td", name.replace("_", " ")), element("td", str(value)))
        for name, value in facts.items()
        if value is not None
    ]
    shown = element("div", element("pre", command), class_="card")
    return joined([shown, element("h3", "Environment"), element("div", element("table", *rows), class_="scroll")])
