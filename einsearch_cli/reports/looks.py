"""One scheme of colours and markers, the same in every table and figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.scaling import RankingEntry
from einsearch_cli.structures import LayerSpec, short_name

MARKERS = ("circle", "square", "diamond", "triangle", "wedge", "hexagon", "cross")
"""Shapes of the best structures, so that colour is never the only sign."""

LONGEST_LABEL = 28
"""The most characters next to a figure: two more than in '1 btt-moe:experts=16,top=2'."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one structure, layer or run looks."""

    key: str
    """A key that its marks share, for hovering."""
    tone: str
    """CSS class of its colour: 'ink' for the reference, 'c1'.. for the rest, 'quiet' after the last colour."""
    marker: str


@dataclass(frozen=True, slots=True)
class Identity(Look):
    """How one structure of a study looks."""

    number: str
    """Rank of the structure, by which figures name it."""
    entry: RankingEntry

    @property
    def stands_out(self) -> bool:
        """Whether it is named in figures; the rest is named on hover and in the table."""
        return self.tone != "quiet"

    @property
    def label(self) -> str:
        """Rank and short name."""
        return f"{self.number} {_name(self.entry.structure)}"

    @property
    def short_label(self) -> str:
        """The label cut to what fits next to a figure."""
        return shortened(self.label)


@lru_cache(maxsize=1024)
def _name(spec: LayerSpec) -> str:
    """The name, which takes 0.6 ms to find and stands at every mark of a structure."""
    return short_name(spec)


def identities(study: StudyReport) -> dict[LayerSpec, Identity]:
    """An identity per structure, best first; the number of colours limits how many stand out."""
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
        known[entry.structure] = Identity(f"s{position}", tone, marker, str(entry.rank), entry)
    return known


def looks_of(names: Iterable[str], plain: str | None) -> dict[str, Look]:
    """A look for each name, ink for `plain`; up to 48 names differ in colour or marker."""
    distinct = list(dict.fromkeys(names))
    count = len(MARKERS)
    looks = {
        name: Look(f"s{number}", f"c{number % count + 1}", MARKERS[(number + number // count) % count])
        for number, name in enumerate(name for name in distinct if name != plain)
    }
    return {name: looks.get(name, Look("plain", "ink", "circle")) for name in distinct}


def shortened(name: str) -> str:
    """A name cut to what fits at the end of a line."""
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
