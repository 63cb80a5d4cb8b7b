"""The ranking as a table of plain text, for terminals and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from einsearch_cli.reports.numbers import (
    MISSING,
    factor_text,
    flops_text,
    loss_text,
    percent_text,
)
from einsearch_cli.reports.study_report import StudyReport, relative_difference
from einsearch_cli.scaling import Price, RankingEntry
from einsearch_cli.structures import short_name

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under headers."""

    headers: tuple[str, ...]
    align: tuple[Align, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown; pipes and line breaks inside cells are escaped.

        >>> print(Table(("a", "b"), ("left", "right"), (("x|y", "1"),)).to_markdown())
        | a | b |
        | :-- | --: |
        | x\\|y | 1 |
        """
        rules = tuple(":--" if side == "left" else "--:" for side in self.align)
        lines = (
            self.headers,
            rules,
            *([" ".join(text.replace("|", "\\|").split()) for text in row] for row in self.rows),
        )
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_COLUMNS: tuple[tuple[str, Align], ...] = (
    ("#", "right"),
    ("structure", "left"),
    ("ω", "right"),
    ("ψ", "right"),
    ("ν", "right"),
    ("loss ± 95%", "right"),
    ("vs yardstick", "right"),
    ("verdict", "left"),
    ("compute gain", "right"),
    ("confirmed gain", "right"),
    ("in total FLOPs", "right"),
    ("in seconds", "right"),
    ("trend", "left"),
    ("width", "right"),
    ("learning rate", "right"),
    ("FLOPs per run", "right"),
)
_OPTIONAL = frozenset({"confirmed gain", "in total FLOPs", "in seconds", "trend", "learning rate"})
"""Columns that are left out where no structure has a value."""
EDGES = {"high": "↑ ", "low": "↓ ", None: ""}
"""Signs in front of a number that is the highest or lowest tried, so that a better one may lie beyond."""


def ranking_table(study: StudyReport, by: Price = "flops") -> Table:
    """Rank, ω ψ ν, loss, difference, verdict, gains, trend, best width and rate of every structure.

    Args:
        study: what was found.
        by: the price whose gain orders the rows; the ranks stay those of the loss at equal FLOPs.
    """
    rows = [_row(study, entry) for entry in study.ranking.ordered(by)]
    kept = [
        position
        for position, (name, _) in enumerate(_COLUMNS)
        if name not in _OPTIONAL or any(row[position] not in (MISSING, "") for row in rows)
    ]
    names, align = zip(*(_COLUMNS[position] for position in kept), strict=True)
    return Table(names, align, tuple(tuple(row[position] for position in kept) for row in rows))


def _row(study: StudyReport, entry: RankingEntry) -> tuple[str, ...]:
    known = study.classes[entry.structure]
    difference = relative_difference(entry)
    is_yardstick = entry.verdict == "yardstick"
    return (
        str(entry.rank),
        short_name(entry.structure),
        str(known.omega),
        str(known.psi),
        str(known.nu),
        _loss_with_interval(entry),
        percent_text(difference[0]) if difference else MISSING,
        entry.verdict,
        gain_text(entry),
        with_interval(entry.confirmed_gain, entry.confirmed_gain_low, entry.confirmed_gain_high),
        MISSING if is_yardstick else with_interval(entry.total_gain, entry.total_gain_low, entry.total_gain_high),
        MISSING if is_yardstick else with_interval(entry.seconds_gain, entry.seconds_gain_low, entry.seconds_gain_high),
        MISSING if entry.trend is None else entry.trend.word,
        width_text(entry),
        rate_text(study, entry),
        flops_text(entry.budget_flops),
    )


def width_text(entry: RankingEntry) -> str:
    """The best width, with an arrow where it is the widest or narrowest that was tried."""
    return MISSING if entry.width is None else f"{EDGES[entry.width_edge]}{entry.width}"


def rate_text(study: StudyReport, entry: RankingEntry) -> str:
    """The tuned learning rate, with an arrow where it is the highest or lowest that was tried."""
    rate = study.rates.get(entry.structure)
    return MISSING if rate is None else f"{EDGES[rate.edge]}{rate.learning_rate:.2g}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A factor with its interval, as far as both are known."""
    if value is None:
        return MISSING
    if low is None and high is None:
        return factor_text(value)
    left = f"[{low:.2f}" if low is not None else f"({MISSING}"
    right = f"{high:.2f}]" if high is not None else f"{MISSING})"
    return f"{factor_text(value)} {left}, {right}"


def _loss_with_interval(entry: RankingEntry) -> str:
    """The loss and the half width of its Student-t interval."""
    if entry.loss is None or entry.loss_low is None or entry.loss_high is None:
        return loss_text(entry.loss)
    return f"{loss_text(entry.loss)} ± {(entry.loss_high - entry.loss_low) / 2:.2g}"


def gain_text(entry: RankingEntry) -> str:
    """The compute gain with its interval, or the bound that was measured."""
    if entry.verdict == "yardstick":
        return factor_text(1.0)
    if entry.compute_gain is not None:
        return with_interval(entry.compute_gain, entry.compute_gain_low, entry.compute_gain_high)
    if entry.compute_gain_at_least is not None:
        return f"> {factor_text(entry.compute_gain_at_least)}"
    if entry.compute_gain_at_most is not None:
        return f"< {factor_text(entry.compute_gain_at_most)}"
    return MISSING
