"""Section of the report: how the tokens were spread over the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einsearch_cli.reports.markup import Html, element, joined
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.ranking_section import structure_cell
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from einsearch_cli.layers import RoutingStatistics
    from einsearch_cli.search.trial import TrialResult

_HEADS = ("structure", "layer", "least used", "most used", "entropy of a token", "entropy of the mean", "dropped")
STARVED = 0.25
"""Share, in units of 1 / experts, below which an expert is marked as starved."""


def experts_section(page: Page) -> Html | None:
    """One row for every layer of experts; None where no candidate has any."""
    shown = _shown(page)
    if not shown:
        return None
    rows = [_row(page, result, layer) for result in shown for layer in result.routing]
    starved = sum(layer.smallest_load < STARVED for result in shown for layer in result.routing)
    heads = element("thead", element("tr", *(element("th", name) for name in _HEADS)))
    table = element("div", element("table", heads, element("tbody", *rows)), class_="scroll", tabindex="0")
    sentences = (
        "Held-out data at the end of one run of each structure: the first seed, the best width, the largest budget.",
        "Least and most used: an expert's share of all slots times the number of experts, so 1 is balanced;",
        f"{starved} of {len(rows)} layers have an expert below {STARVED:g}.",
        "Entropies are in nats: of the router's softmax over all experts, averaged over tokens, and of its mean.",
        "No token is ever dropped.",
    )
    return joined([table, element("p", " ".join(sentences), class_="caption")])


def _shown(page: Page) -> list[TrialResult]:
    """For every ranked structure with experts the run that stands for it."""
    runs: dict[LayerSpec, list[TrialResult]] = {}
    for result in page.study.results:
        if result.routing:
            runs.setdefault(result.trial.structure, []).append(result)
    found = []
    for entry in page.study.ranking.entries:
        mine = [
            result
            for result in runs.get(entry.structure, [])
            if (result.trial.rung, result.trial.width) == (entry.rung, entry.width)
        ]
        found += sorted(mine, key=lambda result: result.trial.seed)[:1]
    return found


def _row(page: Page, result: TrialResult, layer: RoutingStatistics) -> Html:
    experts = len(layer.load)
    values = (
        f"{layer.smallest_load:.2f}",
        f"{max(layer.load) * experts:.2f}",
        f"{layer.token_entropy:.2f}",
        f"{layer.aggregate_entropy:.2f}",
        str(layer.dropped),
    )
    return element(
        "tr",
        structure_cell(result.trial.structure),
        element("td", layer.layer),
        *(element("td", value, class_="number") for value in values),
        data_s=page.looks[result.trial.structure].key,
    )
