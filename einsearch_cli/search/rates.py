"""The learning rates of a study's structures: the base rate times powers of 2, then the minimum between these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from einsearch_cli.scaling import Vertex, vertex
from einsearch_cli.search.bracket import best_point
from einsearch_cli.search.outcome import Tried, TunedRate
from einsearch_cli.search.plan import StudyStage
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.stages import Stages
from einsearch_cli.search.widths import WidthGrid
from einsearch_cli.structures import LayerSpec
from einsearch_cli.training.proxy.trial import Trial

MOST_OCTAVES: Final = 4
"""The search for a rate ends at this many factors of 2 from the base rate."""
_NOTE: Final = "tuned_rates"
"""Name of the note in the store."""


def next_octave(_: LayerSpec, octave: int, step: int) -> int | None:
    """The rate `step` factors of 2 away, as its octave; None beyond those that are tried."""
    return octave + step if abs(octave + step) <= MOST_OCTAVES else None


class Rates:
    """The rates of one study: found on the cheapest rung, checked on the last one, and noted in the store."""

    def __init__(self, spec: StudySpec, grid: WidthGrid, stages: Stages) -> None:
        self.stages, self.grid, self.budgets = stages, grid, stages.budgets
        given = spec.optimizer.learning_rate
        self.base = float(grid.task.settings.learning_rate if given is None else given)
        self.seed = spec.ranking_seeds[0]
        """The seed of the runs that search for rates."""
        self.found: dict[LayerSpec, TunedRate] = {}
        """Empty if the study does not tune rates."""
        self._noted: dict[str, dict[str, Any]] = dict(stages.store.noted(_NOTE) or {})
        """Rates that the study has found, by `_note_key`; with other rungs, it keeps what it trained at them."""

    def at_first(self, structure: LayerSpec) -> float:
        """The rate before any check."""
        return self.found[structure].rate if structure in self.found else 1.0

    def at(self, structure: LayerSpec, rung: int) -> float:
        """The rate of the seeds: the checked one if the rung is the last, or was the last when it was trained."""
        if structure not in self.found:
            return 1.0
        if rung + 1 == len(self.budgets):
            return self.found[structure].last_rate
        checked = self._noted.get(self._note_key("last", structure, self.budgets[rung]))
        return self.found[structure].rate if checked is None else TunedRate.from_json(checked).last_rate

    def tune(self, structures: Iterable[LayerSpec]) -> None:
        """Try the base rate x {1/2, 1, 2} at the width expected to be best, and further rates beyond an edge."""
        budget, starts = self.budgets[0], dict[LayerSpec, tuple[int, float]]()
        for structure in structures:
            noted = self._noted.get(self._note_key("first", structure))
            if noted is not None and noted["budget"] != budget:
                self.found[structure] = TunedRate.from_json(noted["tuned"])
            elif (number := self._near(structure, self.grid.guess(structure, budget), budget)) is not None:
                starts[structure] = number, 1.0
        for structure, losses in self._search("rates", 0, starts).items():
            found = _lowest(losses)
            rate = 1.0 if found is None else float(f"{math.exp(found.at):.3g}")
            width = self.grid.width(starts[structure][0])
            tuned = self.found[structure] = TunedRate.found(self.base, rate, width, found, _tried(losses))
            self._noted[self._note_key("first", structure)] = {"budget": budget, "tuned": tuned.to_json()}
        self.stages.store.note(_NOTE, self._noted)

    def check(self, rung: int, best: Mapping[LayerSpec, int]) -> None:
        """Try the neighbours of each rate at the best width of the last rung, and follow the better one."""
        starts = {s: (number, self.found[s].rate) for s, number in best.items() if s in self.found}
        for structure, losses in self._search("rate check", rung, starts).items():
            found, (number, rate) = _lowest(losses), starts[structure]
            if found is not None:
                checked = self.found[structure].checked_at(
                    self.grid.width(number), found, _tried(losses, rate), moves=best_point(losses) != 0
                )
                self.found[structure] = checked
                self._noted[self._note_key("last", structure, self.budgets[rung])] = checked.to_json()
        self.stages.store.note(_NOTE, self._noted)

    def _search(
        self, stage: StudyStage, rung: int, starts: Mapping[LayerSpec, tuple[int, float]]
    ) -> dict[LayerSpec, dict[int, float]]:
        """Log losses by octave around a rate, for every structure with the number of its width and its rate."""

        def trials(structure: LayerSpec, octave: int) -> list[Trial]:
            number, rate = starts[structure]
            width, budget = self.grid.width(number), self.budgets[rung]
            return [Trial(structure, width, self.seed, rung, budget, stage="rates", rate=rate * 2.0**octave)]

        return self.stages.search(stage, rung, {s: [-1, 0, 1] for s in starts}, trials, next_octave)

    def _near(self, structure: LayerSpec, number: int, budget: float) -> int | None:
        """The fitting width that is nearest to the one of this number."""
        fitting = self.grid.around(structure, number, budget)
        return min(fitting, key=lambda other: (abs(other - number), other), default=None)

    def _note_key(self, kind: Literal["first", "last"], structure: LayerSpec, budget: float = 0.0) -> str:
        """Key under which a rate is noted: found on the cheapest rung, or checked on the last one, of this budget."""
        return f"{self.seed}|{kind}|{structure}|{budget:.9g}"


def _lowest(losses: Mapping[int, float]) -> Vertex | None:
    """Lowest point of the parabola in log rate through the best octave; None if no loss is finite."""
    if not any(map(math.isfinite, losses.values())):
        return None
    return vertex([octave * math.log(2) for octave in losses], list(losses.values()))


def _tried(losses: Mapping[int, float], rate: float = 1.0) -> Tried:
    """Pairs (rate, loss) by rate; octaves are counted from `rate`."""
    return tuple(
        (rate * 2.0**octave, math.exp(log_loss) if math.isfinite(log_loss) else None)
        for octave, log_loss in sorted(losses.items())
    )
