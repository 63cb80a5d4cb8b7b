"""The report of `einsearch bench` as one offline HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from einsearch_cli.reports.figure_speed import OVERHEAD, SPEEDUP, speed_figure
from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import duration_text, widths_text
from einsearch_cli.reports.page import fill, render_page, report_section
from einsearch_cli.reports.speed_table import by_case, speed_headline, speed_rows
from einsearch_cli.reports.table import Cell, Row, number, table

if TYPE_CHECKING:
    from einsearch_cli.speed import BenchResult


@dataclass(frozen=True)
class SpeedReport:
    """What a section on speed is given to write from."""

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
    """What a layer costs besides its products."""
    caption = (
        "Lower is better. The bare products are the layer's own, on contiguous operands, with results in memory that is "
        "there already, and nothing else: no bias, scaling, views or copies."
    )
    return fill("figure.html", drawing=speed_figure(report.result, OVERHEAD), caption=caption)


@report_section("figures", "All figures", page="bench")
def figures_section(report: SpeedReport) -> Html:
    """Every measurement in one table."""
    rows = speed_rows(report.result)
    names = ("mode", "layer")
    cells = [[Cell(text=text) if head in names else number(text) for head, text in row.items()] for row in rows]
    return table(tuple(rows[0]), [Row(cells=some) for some in cells], numbers=set(rows[0]) - set(names))


@report_section("repeat", "Repeat it", page="bench")
def repeat_section(report: SpeedReport) -> Html:
    """Command and environment."""
    known = {**report.result.machine, **report.result.settings}
    environment = [(name.replace("_", " "), value) for name, value in known.items() if value is not None]
    return fill("repeat.html", commands=(report.command,), environment=environment)


def render_speed(result: BenchResult, command: str) -> str:
    """The page of a run that measured something."""
    return render_page("bench", f"Speed of layers on {result.machine['device']}", SpeedReport(result, command))
