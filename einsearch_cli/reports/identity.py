"""One colour, marker and number for each structure, the same in every table and figure."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.reports.study import StudyReport, short_name
from einsearch_cli.scaling import RankingEntry
from einsearch_cli.structures import LayerSpec

MARKERS = ("circle", "square", "diamond", "triangle", "wedge", "hexagon", "cross")
"""Shapes of the best structures, so that colour is never the only sign."""

LONGEST_LABEL = 28
"""Characters beside a figure: as many as '1 btt-moe:experts=16,top=2' has, and two more."""


@dataclass(frozen=True, slots=True)
class Identity:
    """How one structure looks."""

    key: str
    """Ties the marks of one structure together for hovering."""
    number: str
    """Its rank, by which figures name it."""
    tone: str
    """CSS class of its colour: 'ink' for the yardstick, 'c1'.. for the best, 'quiet' for the rest."""
    marker: str
    entry: RankingEntry

    @property
    def stands_out(self) -> bool:
        """Whether it is named in figures; the rest is named on hover and in the table."""
        return self.tone != "quiet"

    @property
    def label(self) -> str:
        """Rank and short name."""
        return f"{self.number} {short_name(self.entry.structure)}"

    @property
    def short_label(self) -> str:
        """The label cut to what fits beside a figure."""
        return self.label if len(self.label) <= LONGEST_LABEL else self.label[: LONGEST_LABEL - 1] + "…"


def identities(study: StudyReport) -> dict[LayerSpec, Identity]:
    """An identity per structure, best first; as many stand out as there are colours to tell apart."""
    known: dict[LayerSpec, Identity] = {}
    coloured = 0
    for position, entry in enumerate(study.ranking.entries):
        tone, marker = "quiet", "circle"
        if entry.structure == study.ranking.yardstick:
            tone = "ink"
        elif coloured < len(MARKERS) and entry.loss is not None:
            marker = MARKERS[coloured]
            coloured += 1
            tone = f"c{coloured}"
        known[entry.structure] = Identity(f"s{position}", str(entry.rank), tone, marker, entry)
    return known
