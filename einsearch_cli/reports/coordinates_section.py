"""The section on the coordinate check: do outputs keep their size as the network becomes wider?"""

from __future__ import annotations

from einsearch_cli.reports.markup import Html
from einsearch_cli.reports.numbers import MISSING
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.table import Cell, Row, number, structure, table
from einsearch_cli.training.proxy.width_trends import HEALTHY_SLOPE, worst_trends

_HEADS = ("structure", "layer", "rms at the start", "slope", "change after 10 steps", "slope of the change")


def coordinates_section(page: Page) -> Html | None:
    """The layer of each structure that changes most with the width."""
    worst = worst_trends(page.study.coordinates)
    if not worst:
        return None
    rows = [
        Row(
            cells=[
                structure(item, page.looks[item]),
                Cell(text=trend.layer),
                number(f"{trend.start:.3g}"),
                number(_slope(trend.start_slope)),
                number(f"{trend.change:.3g}"),
                number(_slope(trend.change_slope)),
            ],
            look=page.looks[item],
        )
        for item, trend in worst.items()
    ]
    caption = (
        "Root mean square of a layer's outputs on held-out data in the widest network: before training, and of the change that "
        "10 steps at the full learning rate make. Slopes are exponents of the width, over three widths. The layer with the "
        "largest slope is shown. A learning rate carries over to other widths if slopes are within "
        f"±{HEALTHY_SLOPE:g} (Yang et al. 2022)."
    )
    return table(_HEADS, rows, _HEADS[2:], caption=caption)


def _slope(slope: float | None) -> str:
    return MISSING if slope is None else f"{slope:+.2f}".replace("-", "−")
