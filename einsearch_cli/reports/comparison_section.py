"""Section of the report: every structure against each baseline."""

from __future__ import annotations

from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.plot import Scale
from einsearch_cli.reports.ranking_section import comparison_cells, forest_scale
from einsearch_cli.reports.table import Row, structure, table
from einsearch_cli.scaling import Ranking
from einsearch_cli.structures import short_name

_HEADS = ("structure", "verdict", "compute gain", "loss against the baseline", "better ◂ 0 ▸ worse")


def comparison_section(page: Page) -> Html | None:
    """For every baseline one row of each other structure; None without baselines."""
    comparisons = page.study.comparisons
    if not comparisons:
        return None
    scale = forest_scale(entry for ranking in comparisons for entry in ranking.entries)
    return table(
        _HEADS,
        [row for ranking in comparisons for row in _rows(page, ranking, scale)],
        numbers=("compute gain", "loss against the baseline"),
        caption="As in the ranking, with another yardstick: loss at equal FLOPs, paired by seed, and the baseline's FLOPs "
        "divided by the structure's for the same loss.",
    )


def _rows(page: Page, ranking: Ranking, scale: Scale) -> list[Row]:
    rows = [Row(divider=f"Against {short_name(ranking.yardstick)}")]
    for entry in ranking.entries:
        if entry.structure != ranking.yardstick:
            look = page.looks[entry.structure]
            cells = [structure(entry.structure, look), *comparison_cells(entry, look, scale)]
            rows.append(Row(cells=cells, look=look))
    return rows
