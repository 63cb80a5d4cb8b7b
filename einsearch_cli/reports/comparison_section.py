"""Section of the report: every structure against each baseline."""

from __future__ import annotations

from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.plot import Scale, swatch
from einsearch_cli.reports.ranking_section import comparison_cells, forest_scale, structure_cell
from einsearch_cli.reports.study import short_name
from einsearch_cli.scaling import Ranking

_HEADS = (
    ("structure", False),
    ("verdict", False),
    ("compute gain", True),
    ("loss against the baseline", True),
    ("better ◂ 0 ▸ worse", False),
)


def comparison_section(page: Page) -> Html | None:
    """For every baseline one row of each other structure; None without baselines."""
    comparisons = page.study.comparisons
    if not comparisons:
        return None
    scale = forest_scale(entry for ranking in comparisons for entry in ranking.entries)
    heads = [element("th", name, class_="number" if right else None) for name, right in _HEADS]
    rows = [row for ranking in comparisons for row in _rows(page, ranking, scale)]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    said = element(
        "p",
        "As in the ranking, with another yardstick: loss at equal FLOPs, paired by seed, and the baseline's FLOPs "
        "divided by the structure's for the same loss.",
        class_="caption",
    )
    return joined([element("div", table, class_="scroll", tabindex="0"), said])


def _rows(page: Page, ranking: Ranking, scale: Scale) -> list[Html]:
    title = element("td", f"Against {short_name(ranking.yardstick)}", colspan=str(len(_HEADS)))
    rows = [element("tr", title, class_="divider")]
    for entry in ranking.entries:
        if entry.structure != ranking.yardstick:
            look = page.looks[entry.structure]
            name = structure_cell(entry.structure, swatch(look.marker, look.tone))
            cells = comparison_cells(entry, look, scale)
            rows.append(element("tr", name, *cells, class_=look.tone, data_s=look.key))
    return rows
