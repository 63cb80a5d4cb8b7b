"""The section on the confirmation: every run with a new seed, the means, and the gains that follow from them."""

from __future__ import annotations

from dataclasses import replace

from einsearch_cli.reports.confirmation import Confirmed, ConfirmedWidth, confirmed_structures
from einsearch_cli.reports.markup import Html, joined
from einsearch_cli.reports.numbers import MISSING, factor_text, flops_text, interval_text, loss_text
from einsearch_cli.reports.page import Page, fill
from einsearch_cli.reports.ranking_section import OUTLIER, factor_cell
from einsearch_cli.reports.table import Cell, Row, number, structure, table
from einsearch_cli.scaling import is_finished

_HEADS = ("structure", "width", "loss of each new seed", "mean", "confirmed gain", "learning rate", "FLOPs of a run")
_SPACE = "\N{NO-BREAK SPACE}"


def confirmation_section(page: Page) -> Html | None:
    """A row for each width of a confirmed structure and one for its best width; None without a confirmation."""
    found = confirmed_structures(page.study)
    if not found:
        return None
    rows = [row for item in found for row in _rows(page, item)]
    caption = (
        "Every run of the confirmation: last rung, widths around the best one, seeds that decided nothing before. The last "
        "row of a structure has the loss at its best width, the lowest point of a parabola in log width through the means; "
        "the gain is read off there. Without a parabola it is the lowest mean, and the true loss may be lower. Means are "
        "geometric. Brackets hold 95% intervals."
    )
    notes = [fill("caption.html", caption=f"{OUTLIER} {warning}.") for warning in page.study.outlier_warnings]
    return joined([table(_HEADS, rows, {*_HEADS} - {"structure", "loss of each new seed"}, caption=caption), *notes])


def _rows(page: Page, item: Confirmed) -> list[Row]:
    look = page.looks[item.structure]
    entry, name = look.entry, structure(item.structure, look)
    rate = MISSING if item.learning_rate is None else f"{item.learning_rate:.3g}"

    def row(name: Cell, width: Cell, runs: str, loss: float, low: float | None, high: float | None, gain: Cell) -> Row:
        mean = number(loss_text(loss), interval_text(low, high).replace(" ", _SPACE))
        costs = number(rate), number(flops_text(item.budget_flops))
        return Row(cells=(name, width, Cell(text=runs), mean, gain, *costs), look=look)

    gain = factor_cell(entry.confirmed_gain, entry.confirmed_gain_low, entry.confirmed_gain_high)
    if entry.verdict == "yardstick":
        gain = number(factor_text(1.0))
    lowest = f"no parabola: {item.width_reason}" if item.width_reason else "lowest point of the parabola"
    best = number(f"{item.best_width:.0f}", "best")
    return [
        *(
            row(replace(name, below=""), number(str(one.width)), _runs(page, item, one), one.mean, one.mean_low,
                one.mean_high, number(""))
            for one in item.widths
        ),
        row(name, best, lowest, item.loss, item.loss_low, item.loss_high, gain),
    ]  # fmt: skip


def _runs(page: Page, item: Confirmed, width: ConfirmedWidth) -> str:
    """Seed and loss of each run, also of those without a loss; a line breaks only between runs."""
    place = (item.structure, item.rung, width.width)
    said = {}
    for result in page.study.confirmation:
        trial = result.trial
        if (trial.structure, trial.rung, trial.width) == place:
            sign = f"{OUTLIER} " if trial.seed == width.outlier else ""
            said[trial.seed] = f"{sign}{trial.seed}: {loss_text(result.loss) if is_finished(result) else result.status}"
    return ", ".join(said[seed].replace(" ", _SPACE) for seed in sorted(said))
