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
from einsearch_cli.scaling import RankingEntry
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
        lines = (self.headers, rules, *(tuple(map(_cell, row)) for row in self.rows))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


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
    ("width", "right"),
    ("FLOPs per run", "right"),
)


def ranking_table(study: StudyReport) -> Table:
    """One row per structure, best first.

    'vs yardstick' is the loss difference at equal training FLOPs as a share of the
    yardstick's loss. Losses may be compared between rows with the same FLOPs per run.
    """
    names = tuple(name for name, _ in _COLUMNS)
    rows = tuple(_row(study, entry) for entry in study.ranking.entries)
    return Table(names, tuple(side for _, side in _COLUMNS), rows)


def _row(study: StudyReport, entry: RankingEntry) -> tuple[str, ...]:
    known = study.classes[entry.structure]
    difference = relative_difference(entry)
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
        MISSING if entry.width is None else str(entry.width),
        flops_text(entry.budget_flops),
    )


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
        low, high = entry.compute_gain_low, entry.compute_gain_high
        if low is None and high is None:
            return factor_text(entry.compute_gain)
        left = f"[{low:.2f}" if low is not None else f"({MISSING}"
        right = f"{high:.2f}]" if high is not None else f"{MISSING})"
        return f"{factor_text(entry.compute_gain)} {left}, {right}"
    if entry.compute_gain_at_least is not None:
        return f"> {factor_text(entry.compute_gain_at_least)}"
    if entry.compute_gain_at_most is not None:
        return f"< {factor_text(entry.compute_gain_at_most)}"
    return MISSING
