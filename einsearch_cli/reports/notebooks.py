"""HTML for notebooks of structures, classifications, swaps, rankings, studies and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any, Final

from einsearch_cli.errors import SizeError
from einsearch_cli.reports.diagram import diagram_svg
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.numbers import MISSING, loss_text, percent_text
from einsearch_cli.reports.speed_table import speed_headline, speed_rows
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.tables import gain_text, ranking_table, width_text, with_interval
from einsearch_cli.scaling import Ranking
from einsearch_cli.speed.results import BenchResult
from einsearch_cli.structures import Structure, short_name
from einsearch_cli.swap.report import SwapReport
from einsearch_cli.taxonomy import Classification, classify

_WIDTH: Final = 1024
"""The width of the square matrix as which a structure alone is drawn."""


@singledispatch
def html_of(value: object) -> str:
    """An HTML fragment without scripts and styles of its own."""
    raise TypeError(f"nothing is known of how to show a {type(value).__name__}")


@html_of.register
def _(value: Structure) -> str:
    try:
        return diagram_svg(classify(value, _WIDTH, _WIDTH))
    except SizeError:  # sizes of its own that do not divide the width
        return element("code", str(value))


@html_of.register
def _(value: Classification) -> str:
    row = {
        "d_in → d_out": f"{value.d_in:,} → {value.d_out:,}",
        "parameters": f"{value.params:,} = {value.params / value.dense_params:.1%} of dense",
        "FLOPs/token": f"{value.flops_per_token:,} = {value.flops_per_token / value.dense_flops_per_token:.1%} of dense",
        "rank": f"at most {value.rank_bound:,}" if value.rank is None else f"{value.rank:,}",
        "verdict": "kept" if value.kept else f"pruned: {'; '.join(value.reasons)}",
    }
    return joined([diagram_svg(value), _table([row])])


def _error(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


@html_of.register
def _(value: SwapReport) -> str:
    layers = [
        {
            "layer": row["layer"],
            "widths": MISSING if row["d_in"] is None else f"{row['d_in']:,} → {row['d_out']:,}",
            "parameters": _change(row, "params"),
            "FLOPs/token": _change(row, "flops"),
            "relative error": _error(row["relative_error"]),
            **({"of outputs": _error(row["output_error"])} if "output_error" in row else {}),
            **({"structure": row["structure"] or MISSING} if "structure" in row else {}),
            "left because": row["left_because"] or "",
        }
        for row in value.records()
    ]
    return joined(
        [
            element("p", element("b", value.structure_text)),
            element("pre", value.summary),
            element("details", element("summary", f"{len(layers):,} linear layers"), _table(layers)),
        ]
    )


@html_of.register
def _(value: Ranking) -> str:
    rows = [
        {
            "#": str(entry.rank),
            "structure": short_name(entry.structure),
            "loss": loss_text(entry.loss),
            f"vs {short_name(value.yardstick)}": MISSING if entry.difference is None else percent_text(entry.difference),
            "verdict": entry.verdict,
            "compute gain": gain_text(entry),
            "confirmed gain": with_interval(
                entry.confirmed_gain, entry.confirmed_gain_low, entry.confirmed_gain_high
            ),
            "width": width_text(entry),
        }
        for entry in value.entries
    ]  # fmt: skip
    return _table(rows)


@html_of.register
def _(value: StudyReport) -> str:
    shown = ranking_table(value)
    rows = [dict(zip(shown.headers, row, strict=True)) for row in shown.rows]
    return joined([element("h4", value.title), _table(rows), *(element("p", each) for each in headline(value))])


@html_of.register
def _(value: BenchResult) -> str:
    return joined([_table(speed_rows(value)), *(element("p", each) for each in speed_headline(value))])


def _change(row: Mapping[str, Any], name: str) -> str:
    before, after = row[f"{name}_before"], row[f"{name}_after"]
    return MISSING if before is None else f"{before:,} → {after:,}"


def _table(rows: Iterable[Mapping[str, str]]) -> Html:
    rows = list(rows)
    heads = list(rows[0]) if rows else []
    return element(
        "table",
        element("thead", element("tr", *(element("th", head) for head in heads))),
        element("tbody", *(element("tr", *(element("td", row[head]) for head in heads)) for row in rows)),
    )
