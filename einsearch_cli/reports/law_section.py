"""The section on scaling laws: predictions for more compute, and how far beyond the runs they are."""

from __future__ import annotations

from collections.abc import Sequence

from einsearch_cli.reports.markup import Html, element
from einsearch_cli.reports.numbers import MISSING, flops_text, loss_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.table import Cell, Row, number, structure, table
from einsearch_cli.scaling import RankingEntry
from einsearch_cli.scaling.law import Prediction
from einsearch_cli.structures import short_name

_HEADS = ("structure", "exponent a", "irreducible loss L₀", "C₀", "meets the yardstick at")


def law_section(page: Page) -> Html | None:
    """The law of every structure, or why there is none; None without finished runs."""
    entries = [entry for entry in page.study.ranking.entries if entry.loss is not None]
    if not entries:
        return None
    fitted = [entry for entry in entries if entry.law is not None]
    if not fitted:
        reason = next((_reason(entry) for entry in entries if entry.law_reason), "no law was fitted")
        return element("p", f"No scaling law: {reason}.", class_="caption")
    predicted = next((entry.prediction for entry in fitted if entry.prediction is not None), None)
    heads = _HEADS if predicted is None else (*_HEADS, f"predicted loss at {flops_text(predicted.compute)} FLOPs")
    rows = [Row(cells=_cells(page, entry)[: len(heads)], look=page.looks[entry.structure]) for entry in fitted]
    left = [f"{short_name(entry.structure)}: {_reason(entry)}" for entry in entries if not entry.law]
    caption = (
        "L = L₀ + (C / C₀)^(−a) through the losses at the best widths, by robust least squares with bootstrap intervals. "
        "Beyond the runs it is an extrapolation that nothing here can check. "
        + " ".join(f"No law for {said}." for said in left)
    )
    return table(heads, rows, heads[1:], caption=caption)


def _reason(entry: RankingEntry) -> str:
    """Why there is no law, without the structure's notation in front."""
    return " ".join(str(entry.law_reason).removeprefix(f"{entry.structure}: ").split())


def no_predictions(entries: Sequence[RankingEntry]) -> list[str]:
    """Sentences on the structures without a prediction, one for each reason."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        if entry.prediction is None and entry.law_reason:
            names.setdefault(_reason(entry), []).append(short_name(entry.structure))
    found = [(f" for {', '.join(of)}" if len(of) < len(entries) else "", reason) for reason, of in names.items()]
    return [f"no prediction{of}: {reason}" for of, reason in found]


def _cells(page: Page, entry: RankingEntry) -> list[Cell]:
    law, crossing, prediction = entry.law, entry.crossover, entry.prediction
    assert law is not None
    shared = ", one for all" if law.shared_floor else ""
    meets = number(MISSING)
    if crossing is not None:
        ends = (MISSING if end is None else flops_text(end) for end in (crossing.low, crossing.high))
        meets = number(flops_text(crossing.compute), f"[{', '.join(ends)}]")
    return [
        structure(entry.structure, page.looks[entry.structure]),
        number(f"{law.exponent:.3f}", f"[{law.exponent_low:.3f}, {law.exponent_high:.3f}]"),
        number(loss_text(law.floor), f"[{loss_text(law.floor_low)}, {loss_text(law.floor_high)}]{shared}"),
        number(flops_text(law.scale), f"[{flops_text(law.scale_low)}, {flops_text(law.scale_high)}]"),
        meets,
        number(MISSING)
        if prediction is None
        else number(
            loss_text(prediction.loss), f"[{loss_text(prediction.low)}, {loss_text(prediction.high)}]{_far(prediction)}"
        ),
    ]


def prediction_text(entry: RankingEntry, prediction: Prediction) -> str:
    """A predicted loss with its interval, and its distance from the measured range."""
    return (
        f"{short_name(entry.structure)}: loss {loss_text(prediction.loss)} at {flops_text(prediction.compute)} FLOPs, "
        f"95% interval {loss_text(prediction.low)} to {loss_text(prediction.high)}{_far(prediction)}"
    )


def _far(prediction: Prediction) -> str:
    return f", {prediction.decades_beyond:.1f} decades beyond the runs" if prediction.decades_beyond else ""
