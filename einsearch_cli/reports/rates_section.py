"""The section on learning rates: how each was found, and whether it carried over to the last rung."""

from __future__ import annotations

from einsearch_cli.reports.figure_rates import rates_figure
from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import Html, joined
from einsearch_cli.reports.numbers import MISSING, factor_text
from einsearch_cli.reports.page import Page, fill
from einsearch_cli.reports.table import Cell, Row, number, structure, table, without_constants
from einsearch_cli.search.outcome import TunedRate

_HEADS = ("structure", "best, first rung", "curvature", "best, last rung", "moved by", "used, last rung", "note")
_KEPT = ("structure", *_HEADS[3:6])


def rates_section(page: Page) -> Html | None:
    """The loss over the rate, and a row for each structure; None if rates were not tuned."""
    drawing = rates_figure(page)
    if drawing is None:
        return None
    rows = [Row(cells=_cells(page.looks[item], rate), look=page.looks[item]) for item, rate in page.study.rates.items()]
    caption = (
        "Every structure has a rate of its own: one run for each rate on the cheapest rung, a parabola in log rate through "
        "the best three; muP carries it to other widths. The last rung repeats this at the best width, and the rate changes "
        "only if a measured neighbour, half or twice the rate, has a lower loss. Curvature: of log loss over log rate; a flat "
        "optimum forgives a wrong rate. Moved by: best of the last rung over best of the first."
    )
    heads, rows, constants = without_constants(_HEADS, rows, keep=_KEPT)
    figure = fill("figure.html", drawing=drawing, caption=" ".join([caption, *constants]))
    return joined([figure, table(heads, rows, _HEADS[1:6])])


def _cells(look: Identity, rate: TunedRate) -> list[Cell]:
    checked_at = MISSING if rate.last_width is None else f"width {rate.last_width}"
    best = MISSING if rate.shift is None else f"{rate.base * rate.rate * rate.shift:.3g}"
    return [
        structure(look.entry.structure, look),
        number(f"{rate.base * rate.rate:.3g}", f"width {rate.width}"),
        number(MISSING if rate.curvature is None else f"{rate.curvature:.2g}"),
        number(best, checked_at),
        number(MISSING if rate.shift is None else factor_text(rate.shift)),
        number(f"{rate.learning_rate:.3g}"),
        Cell(text=rate.reason or ""),
    ]
