"""Two studies of the same structures compared: do they reach the same verdicts?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einsearch_cli.errors import SpecError
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.tables import gain_text
from einsearch_cli.structures import short_name

_CALLED = ("better", "worse")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the verdicts of two studies agree."""

    rows: list[dict[str, Any]]
    """One row for each structure that both ranked, in the order of the first study."""
    called: int
    """Structures that at least one study calls better or worse."""
    same: int
    """How many of the called structures have the same verdict in both studies."""
    opposite: int
    """How many of the called structures are better in one study and worse in the other."""

    @property
    def sentence(self) -> str:
        """The agreement in words."""
        if not self.called:
            return f"neither study calls one of the {len(self.rows)} structures better or worse"
        return (
            f"of {self.called} structures that either study calls better or worse, {self.same} have the same verdict in "
            f"both ({self.same / self.called:.0%}), {self.opposite} the opposite one, and "
            f"{self.called - self.same - self.opposite} are called by one only"
        )


def agreement(first: StudyReport, second: StudyReport) -> Agreement:
    """Compare the verdicts of two studies on the structures that both ranked.

    Raises:
        SpecError: the studies have other yardsticks, tasks or budgets, or no structure in common.
    """
    for name, one, other in (
        ("task", first.task, second.task),
        ("yardstick", str(first.ranking.yardstick), str(second.ranking.yardstick)),
        ("budget_flops", f"{first.budget_flops:g}", f"{second.budget_flops:g}"),
    ):
        if one != other:
            raise SpecError(
                f"{name} is {one} in the first study and {other} in the second: verdicts of equal studies are compared",
                remedy="give two studies that differ in their seeds alone",
            )
    rows: list[dict[str, Any]] = []
    for entry in first.ranking.entries:
        other_entry = second.ranking.entry_of(entry.structure)
        if other_entry is not None and entry.verdict != "yardstick":
            rows.append({
                "structure": short_name(entry.structure),
                "first verdict": entry.verdict,
                "second verdict": other_entry.verdict,
                "first gain": gain_text(entry),
                "second gain": gain_text(other_entry),
            })  # fmt: skip
    if not rows:
        raise SpecError(
            "the two studies have no structure in common but the yardstick", remedy="give studies of one space"
        )
    pairs = [(row["first verdict"], row["second verdict"]) for row in rows]
    called = [pair for pair in pairs if pair[0] in _CALLED or pair[1] in _CALLED]
    opposite = sum(set(pair) == set(_CALLED) for pair in called)
    return Agreement(rows, len(called), sum(one == other for one, other in called), opposite)
