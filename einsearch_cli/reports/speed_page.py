"""The report of `einsearch bench` as one offline HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from einsearch_cli.reports.figure_speed import OVERHEAD, SPEEDUP, speed_figure
from einsearch_cli.reports.looks import looks_of
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import duration_text, widths_text
from einsearch_cli.reports.page import fill, render_page, report_section
from einsearch_cli.reports.speed_table import by_case, speed_headline, speed_rows
from einsearch_cli.reports.structure_cards import Shown, known_layer, structure_cards
from einsearch_cli.reports.table import Cell, Row, card_id, number, table, without_constants
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.speed import BenchResult


@dataclass(frozen=True)
class SpeedReport:
    """The data from which a section on speed is written."""

    result: BenchResult
    command: str
    """The shell command that repeats it."""


@report_section("result", "Result", page="bench")
def result_section(report: SpeedReport) -> Html:
    """The findings in sentences."""
    return fill("findings.html", sentences=speed_headline(report.result))


@report_section("facts", "What was measured", page="bench")
def facts_section(report: SpeedReport) -> Html:
    """Layers, cases and settings as a row of tiles."""
    result = report.result
    cases = [case for case, _ in by_case(result)]
    facts = (
        ("Layers", str(len({item.name for item in result.measurements}))),
        ("Cases", str(len(cases))),
        ("Widths", widths_text(case.width for case in cases)),
        ("Type", str(result.settings["dtype"])),
        ("Threads", str(result.settings["threads"])),
        ("Clock", str(result.settings["clock"])),
        ("Time", duration_text(result.elapsed_s)),
    )
    return fill("facts.html", facts=facts, notes=())


@report_section("speedup", "Speed-up against what the FLOPs promise", page="bench")
def speedup_section(report: SpeedReport) -> Html:
    """Measured against theoretical speed-up."""
    caption = (
        "Higher is better; large marks are wide layers. Ratios are medians over rounds in which all layers of a case ran "
        "in turn. A layer may lie above the diagonal: nn.Linear spends time on other things than FLOPs too."
    )
    return fill("figure.html", drawing=speed_figure(report.result, SPEEDUP), caption=caption)


@report_section("overhead", "Time over that of the bare matrix products", page="bench")
def overhead_section(report: SpeedReport) -> Html:
    """The cost of a layer in addition to its products."""
    caption = (
        "Lower is better. The bare products are the layer's own, on contiguous operands, with results in memory that is "
        "there already, and nothing else: no bias, scaling, views or copies."
    )
    return fill("figure.html", drawing=speed_figure(report.result, OVERHEAD), caption=caption)


@report_section("figures", "All figures", page="bench")
def figures_section(report: SpeedReport) -> Html:
    """Every measurement in one table."""
    first = ("mode", "width", "tokens", "layer")
    rows = [{head: row[head] for head in (*first, *row)} for row in speed_rows(report.result)]
    names = ("mode", "layer")
    looks = {item.spec: item.look for item in _cards(report)}
    known = {item.name: known_layer(item.structure) for item in report.result.measurements}
    links = {name: card_id(looks[spec]) for name, spec in known.items() if spec is not None}
    cells = [
        [
            Cell(text=text, link=links.get(text, "") if head == "layer" else "") if head in names else number(text)
            for head, text in row.items()
        ]
        for row in rows
    ]
    heads, shown, constants = without_constants(
        tuple(rows[0]), [Row(cells=some) for some in cells], keep=("layer", "time", "speed-up")
    )
    reading = (
        "A click on a head sorts the rows. The box chooses rows that hold all its words: 'decode 1 128 monarch' those of "
        "monarch with 1 token at width 128. Possible: FLOPs of the dense layer over those of the layer. Realised: the share "
        "of that which was measured. × bare: time over that of the bare products."
    )
    caption = " ".join([reading, *constants])
    return table(heads, shown, numbers=set(heads) - set(names), caption=caption, is_filtered=True)


def _cards(report: SpeedReport) -> list[Shown]:
    """Every structure once, at the largest width that it was measured at."""
    items = sorted(report.result.measurements, key=lambda item: -item.case.width)
    looks = looks_of((item.name for item in report.result.measurements), "dense")
    found: dict[LayerSpec, Shown] = {}
    for item in items:
        spec = known_layer(item.structure)
        if spec is not None and spec not in found:
            found[spec] = Shown(spec, looks[item.name], item.case.width)
    return list(found.values())


@report_section("structures", "The structures", page="bench")
def structures_section(report: SpeedReport) -> Html | None:
    """A card for each structure; the table leads here."""
    cards = _cards(report)
    return structure_cards(cards) if cards else None


@report_section("repeat", "Repeat it", page="bench")
def repeat_section(report: SpeedReport) -> Html:
    """Command and environment."""
    known = {**report.result.machine, **report.result.settings}
    environment = [(name.replace("_", " "), value) for name, value in known.items() if value is not None]
    return fill("repeat.html", commands=(report.command,), environment=environment)


def render_speed(result: BenchResult, command: str) -> str:
    """The page of a run that measured something."""
    return render_page("bench", f"Speed of layers on {result.machine['device']}", SpeedReport(result, command))
