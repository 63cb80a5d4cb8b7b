"""The tables of the report that compare structures: the ranking, and each against every baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from einsearch_cli.reports.looks import Identity
from einsearch_cli.reports.markup import NOTHING, Html, element, joined
from einsearch_cli.reports.numbers import (
    MISSING,
    count_text,
    factor_text,
    flops_text,
    interval_text,
    loss_text,
    percent_text,
)
from einsearch_cli.reports.page import Page, fill
from einsearch_cli.reports.plot import Scale, data_of, mark
from einsearch_cli.reports.study_report import StudyReport, relative_difference
from einsearch_cli.reports.table import Cell, Row, number, structure, table, without_constants
from einsearch_cli.reports.tables import gain_text, rate_text, width_text, with_interval
from einsearch_cli.scaling import Ranking, RankingEntry
from einsearch_cli.structures import short_name

_GAINS = ("compute gain", "confirmed gain", "gain in total FLOPs", "gain in seconds")
_HEADS = (
    *("#", "structure", "verdict", *_GAINS, "loss against yardstick", "better ◂ 0 ▸ worse"),
    *("loss", "best width", "learning rate", "ω", "ψ", "ν"),
)
_OPTIONAL = frozenset({*_GAINS[1:], "learning rate"})
"""Columns that are left out where no structure has a value."""
_ALWAYS = frozenset(_HEADS) - {"ω", "ψ", "ν"}
"""Columns that stay where all structures have the same value."""
_NUMBERS = frozenset(_HEADS) - {"structure", "verdict", "better ◂ 0 ▸ worse"}

_COMPARISON_HEADS = ("structure", "verdict", "compute gain", "loss against the baseline", "better ◂ 0 ▸ worse")
_VERDICTS = {"failed": "no run finished"}

OUTLIER = "⚠"
"""Sign of a run that lies far from the other seeds of its width."""
FOREST_WIDTH, FOREST_HEIGHT = 132, 20
WIDEST = 0.6
"""The largest difference in the small bars, as a share of the yardstick's loss; larger ones are cut off."""


def ranking_section(page: Page) -> Html:
    """The table, split where structures were stopped with less compute, and how to read it."""
    study = page.study
    scale = forest_scale(study.ranking.entries)
    rows: list[Row] = []
    rung: int | None = None
    for position, look in enumerate(page.looks.values()):
        if position and look.entry.rung != rung:
            rows.append(Row(divider=_stopped(look.entry)))
        rung = look.entry.rung
        rows.append(_row(study, look, scale))
    heads, rows, constants = without_constants(_HEADS, rows, keep=_ALWAYS)
    kept = [
        position
        for position, head in enumerate(heads)
        if head not in _OPTIONAL or any(row.cells[position].text != MISSING for row in rows if row.cells)
    ]
    shown = [replace(row, cells=[row.cells[position] for position in kept]) if row.cells else row for row in rows]
    reading = (
        "Brackets hold 95% intervals. They cover seeds and the choice of width, not that of learning rate or task."
    )
    names = [heads[position] for position in kept]
    ranked = table(names, shown, _NUMBERS, caption=" ".join([*constants, reading]))
    notes = [fill("caption.html", caption=f"{OUTLIER} {warning}.") for warning in study.ranking_outlier_warnings]
    return joined([ranked, *notes, fill("meanings.html", meanings=_meanings(study, names))])


def _stopped(entry: RankingEntry) -> str:
    if entry.rung is None:
        return "No finished run"
    return (
        f"Stopped earlier, after {flops_text(entry.budget_flops)} FLOPs per run (rung {entry.rung + 1}): "
        "less compute, so these losses are not comparable with those above"
    )


def _row(study: StudyReport, look: Identity, scale: Scale) -> Row:
    entry, known = look.entry, study.classes[look.entry.structure]
    verdict, gain, *difference = comparison_cells(entry, look, scale)
    others = [
        (entry.confirmed_gain, entry.confirmed_gain_low, entry.confirmed_gain_high),
        (entry.total_gain, entry.total_gain_low, entry.total_gain_high),
        (entry.seconds_gain, entry.seconds_gain_low, entry.seconds_gain_high),
    ]
    is_yardstick = entry.verdict == "yardstick"
    cells = (
        number(look.number),
        structure(entry.structure, look, below=_control(study, entry)),
        *(verdict, gain, *(number(MISSING) if is_yardstick else factor_cell(*other) for other in others), *difference),
        number(loss_text(entry.loss), interval_text(entry.loss_low, entry.loss_high)),
        _width(entry),
        number(rate_text(study, entry)),
        *(number(str(value)) for value in (known.omega, known.psi, known.nu)),
    )
    return Row(cells=cells, look=look)


def _control(study: StudyReport, entry: RankingEntry) -> str:
    """The reason why the study added a structure that the user did not give."""
    sources = study.controls.get(entry.structure, ())
    return f"control of {', '.join(map(short_name, sources))}" if sources else ""


def factor_cell(value: float | None, low: float | None, high: float | None) -> Cell:
    """A gain with its interval below."""
    whole = with_interval(value, low, high)
    shown, _, interval = whole.partition(" ")
    return number(shown, interval or MISSING)


def comparison_cells(entry: RankingEntry, look: Identity, scale: Scale) -> list[Cell]:
    """Verdict, compute gain, difference in loss, and the difference as a bar."""
    share = relative_difference(entry)
    tip = f"Cannot tell\n{entry.verdict_reason}" if entry.verdict_reason else ""
    verdict = Cell(text=_VERDICTS.get(entry.verdict, entry.verdict), badge=entry.verdict.replace(" ", "-"), tip=tip)
    return [verdict, _gain(entry), number(*_difference(share)), Cell(drawing=_forest(share, look, scale))]


def _width(entry: RankingEntry) -> Cell:
    """The best width, with an arrow where it is the widest or narrowest tried, so that a better one may lie beyond."""
    if entry.width is None:
        return number(MISSING)
    return number(width_text(entry), f"{count_text(entry.params)} params")


def _difference(share: tuple[float, float | None, float | None] | None) -> tuple[str, str]:
    if share is None:
        return MISSING, MISSING
    value, low, high = share
    if low is None or high is None:
        return percent_text(value), MISSING
    return percent_text(value), f"[{percent_text(low)}, {percent_text(high)}]"


def _gain(entry: RankingEntry) -> Cell:
    whole = gain_text(entry)
    value = factor_text(entry.compute_gain) if entry.compute_gain is not None else whole
    reason = entry.compute_gain_reason
    tip = f"Compute gain\n{reason}" if reason is not None else ""
    interval = whole.removeprefix(value).strip()
    if not interval and reason is not None and entry.compute_gain is not None:
        interval = MISSING  # the reason says why there is none
    return Cell(text=value, below=interval, kind="number", tip=tip)


def forest_scale(entries: Iterable[RankingEntry]) -> Scale:
    """One scale for the small bars of all rows; its middle is 0."""
    ends = [abs(end) for entry in entries for end in relative_difference(entry) or () if end is not None]
    reach = min(WIDEST, max(ends, default=0.1) * 1.05) or 0.1
    return Scale(-reach, reach, 4, FOREST_WIDTH - 4, logarithmic=False)


def _forest(share: tuple[float, float | None, float | None] | None, look: Identity, scale: Scale) -> Html:
    """The difference to the yardstick and its interval on one scale for all rows; the middle is 0."""
    if share is None:
        return NOTHING
    middle, centre = FOREST_HEIGHT / 2, scale(0.0)
    parts = [element("line", x1=centre, x2=centre, y1=0.0, y2=float(FOREST_HEIGHT), class_="zero")]
    value, low, high = share
    if low is not None and high is not None:
        ends = [scale(min(max(end, scale.low), scale.high)) for end in (low, high)]
        carried = data_of(low=low, high=high)
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, class_="bar", **carried))
    if scale.low <= value <= scale.high:
        parts.append(mark(look.marker, scale(value), middle, 4.5, class_="dot", **data_of(x=value)))
    return element(
        "svg",
        *parts,
        class_=f"forest series {look.tone}",
        viewBox=f"0 0 {FOREST_WIDTH} {FOREST_HEIGHT}",
        aria_hidden="true",
    )


def _meanings(study: StudyReport, heads: Sequence[str]) -> dict[str, str]:
    """The meaning of each column of the ranking that is shown."""
    said = {
        "verdict": "'better' or 'worse' where the interval of the loss against the yardstick leaves out 0 and the best widths "
        "that it rests on were found; otherwise 'cannot tell'.",
        "compute gain": "The yardstick's FLOPs divided by this structure's FLOPs for the same loss, the lowest that both "
        "reach; above 1× is cheaper. < and > are bounds, where the two curves share no loss. Compute is read off at most a "
        "factor of 1.65 below the cheapest run.",
        "confirmed gain": "The compute gain by runs with new seeds. Quote this one: the seeds of the other chose the structure.",
        "gain in total FLOPs": "The compute gain with embeddings and head counted.",
        "gain in seconds": "The same in seconds: steps of all networks were timed in turn on this machine; another one "
        "differs.",
        "loss against yardstick": "The difference at equal FLOPs, as a share of the yardstick's loss. Its interval, and so "
        "the verdict, holds for all candidates together (Dunnett).",
        "loss": f"{study.loss_name[0].upper()}{study.loss_name[1:]} at the best width, the lowest point of a parabola in "
        "log width.",
        "learning rate": "The base rate of the last rung; see 'Rates shown' above.",
    }
    if any(entry.width_edge for entry in study.ranking.entries) or any(rate.edge for rate in study.rates.values()):
        said["↑, ↓"] = "The best width or rate is the highest (↑) or lowest (↓) tried: a better one may lie beyond it."
    return {name: text for name, text in said.items() if name in heads or name == "↑, ↓"}


def comparison_section(page: Page) -> Html | None:
    """Rows of every baseline, one for each other structure; None without baselines."""
    comparisons = page.study.comparisons
    if not comparisons:
        return None
    scale = forest_scale(entry for ranking in comparisons for entry in ranking.entries)
    return table(
        _COMPARISON_HEADS,
        [row for ranking in comparisons for row in _comparison_rows(page, ranking, scale)],
        numbers=("compute gain", "loss against the baseline"),
        caption="As in the ranking, with another yardstick: loss at equal FLOPs, and the baseline's FLOPs "
        "divided by the structure's for the same loss.",
    )


def _comparison_rows(page: Page, ranking: Ranking, scale: Scale) -> list[Row]:
    rows = [Row(divider=f"Against {short_name(ranking.yardstick)}")]
    for entry in ranking.entries:
        if entry.structure != ranking.yardstick:
            look = page.looks[entry.structure]
            cells = [structure(entry.structure, look), *comparison_cells(entry, look, scale)]
            rows.append(Row(cells=cells, look=look))
    return rows
