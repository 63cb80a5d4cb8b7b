"""The section on experts: how the tokens were spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einsearch_cli.reports.figure_experts import STARVED, load_figure
from einsearch_cli.reports.markup import Html, joined
from einsearch_cli.reports.numbers import loss_text
from einsearch_cli.reports.page import Page, fill
from einsearch_cli.reports.table import Cell, Row, number, structure, table, without_constants
from einsearch_cli.structures import LayerSpec, short_name

if TYPE_CHECKING:
    from einsearch_cli.structures import RoutingStatistics
    from einsearch_cli.training.proxy.trial import TrialResult

_HEADS = ("structure", "layer", "least used", "most used", "entropy of a token", "entropy of the mean", "dropped")
_WITHOUT = "least used without balance loss"
MOST_DRAWN = 10
"""The number of structures in the figure, the best ones; the table has all."""


def experts_section(page: Page) -> Html | None:
    """A figure, and one row for every layer of experts; None if no candidate has any."""
    shown = _shown(page)
    if not shown:
        return None
    without = {result.trial.structure: result for result in page.study.unbalanced if result.routing}
    drawing = load_figure([(run, without.get(run.trial.structure)) for run in shown[:MOST_DRAWN]], page.looks)
    read = fill("figure.html", drawing=drawing, caption=_counted(shown, without))
    return joined([read, _table(page, shown, without)])


def _table(page: Page, shown: list[TrialResult], without: dict[LayerSpec, TrialResult]) -> Html:
    rows = []
    for result in shown:
        other = without.get(result.trial.structure)
        for position, layer in enumerate(result.routing):
            cells = _cells(result, layer)
            if without:
                cells.append(number("" if other is None else f"{other.routing[position].smallest_load:.2f}"))
            rows.append(Row(cells=cells, look=page.looks[result.trial.structure]))
    heads = (*_HEADS, _WITHOUT) if without else _HEADS
    left, rows, constants = without_constants(heads, rows, keep=set(heads) - {"dropped"})
    summary = f"Every layer ({len(rows)} rows)"
    return table(left, rows, numbers=heads[2:], summary=summary, caption=" ".join(constants))


def _counted(shown: list[TrialResult], without: dict[LayerSpec, TrialResult]) -> str:
    """How to read the figure and the table, and how many layers have starved experts."""
    layers = [layer for result in shown for layer in result.routing]
    drawn = f" of the best {MOST_DRAWN} structures" if len(shown) > MOST_DRAWN else ""
    sentences = [
        f"One mark is a layer{drawn}, hollow without the loss that balances the load."
        if without
        else f"One mark is a layer{drawn}.",
        "Held-out data at the end of one run of each structure: the first seed, the best width, the largest budget.",
        "Least and most used: an expert's share of all slots times the number of experts, so 1 is balanced;",
        f"{_starved(layers)} of {len(layers)} layers have an expert below {STARVED:g}.",
        "Entropies are in nats: of the router's softmax over all experts, averaged over tokens, and of its mean.",
        f"{sum(layer.dropped for layer in layers) or 'No'} slots were dropped.",
    ]
    pairs = [(run, without[run.trial.structure]) for run in shown if run.trial.structure in without]
    if pairs:
        free = [layer for _, other in pairs for layer in other.routing]
        losses = (
            f"{short_name(run.trial.structure)} {loss_text(other.loss)} instead of {loss_text(run.loss)}"
            for run, other in pairs
        )
        sentences += [
            "Ablation: the same runs without the loss that balances the load; then",
            f"{_starved(free)} of {len(free)} layers have an expert below {STARVED:g}.",
            f"Losses without it: {', '.join(losses)}.",
        ]
    return " ".join(sentences)


def _starved(layers: list[RoutingStatistics]) -> int:
    return sum(layer.smallest_load < STARVED for layer in layers)


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


def _cells(result: TrialResult, layer: RoutingStatistics) -> list[Cell]:
    values = (layer.smallest_load, max(layer.load) * len(layer.load), layer.token_entropy, layer.aggregate_entropy)
    return [
        structure(result.trial.structure),
        Cell(text=layer.layer),
        *(number(f"{value:.2f}") for value in values),
        number(str(layer.dropped)),
    ]
