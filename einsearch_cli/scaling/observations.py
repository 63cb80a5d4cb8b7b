"""Losses over a grid of rungs and widths, from runs.

Words used in this package: an *observation* is the loss of one finished run; a *cell* holds the observations of one
structure at one rung and width, which differ only in their seed; a *level* is one rung, that is one training budget.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property

from einsearch_cli.training.proxy.trial import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The loss of one finished run, with its costs."""

    structure: Hashable
    rung: int
    """Number of the rung; 0 is the cheapest."""
    width: int
    seed: int
    loss: float
    """Held-out loss, finite and above 0: all computations use its logarithm."""
    budget: float
    """Training FLOPs allotted to every run of the rung, without embeddings and head."""
    compute: float
    """Training FLOPs spent, without embeddings and head."""
    total: float
    """Training FLOPs spent, with embeddings and head."""
    seconds: float | None = None
    """Seconds of the same steps on an idle machine; None if not measured."""
    tokens: float | None = None
    """Samples or tokens trained on; None if not known."""
    params: int = 0
    """Parameters of the network."""
    stage: Stage = "main"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loss) and self.loss > 0):
            raise ValueError(f"the loss must be finite and above 0, found {self.loss}")


@dataclass(frozen=True)
class Cell:
    """The runs of one structure at one rung, one width and one stage."""

    runs: tuple[Observation, ...]
    """The runs, sorted by seed; each seed occurs once, and there is at least one."""

    @property
    def width(self) -> int:
        return self.runs[0].width

    @property
    def rung(self) -> int:
        return self.runs[0].rung

    @property
    def params(self) -> int:
        return self.runs[0].params

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        """Pairs (seed, loss) of every run."""
        return tuple((run.seed, run.loss) for run in self.runs)

    @property
    def compute(self) -> float:
        """Mean training FLOPs of the runs; embeddings and head are not counted."""
        return math.fsum(run.compute for run in self.runs) / len(self.runs)

    @cached_property
    def logs(self) -> tuple[float, ...]:
        """Logarithms of the losses."""
        return tuple(math.log(run.loss) for run in self.runs)

    @cached_property
    def log_mean(self) -> float:
        """Mean of the logarithms of the losses."""
        return math.fsum(self.logs) / len(self.logs)

    @property
    def mean(self) -> float:
        """Geometric mean of the losses."""
        return math.exp(self.log_mean)


@dataclass(frozen=True)
class Level:
    """All widths of one structure at one rung."""

    rung: int
    budget_flops: float
    cells: tuple[Cell, ...]
    """Every width that was measured, narrow to wide; widths of pilot runs only if the level has no others."""
    pilots: tuple[Cell, ...] = ()
    """Widths that only pilot runs tried, if `cells` has others."""

    @cached_property
    def all_cells(self) -> tuple[Cell, ...]:
        """Every width with a finished run, including pilots, narrow to wide."""
        return tuple(sorted((*self.cells, *self.pilots), key=lambda cell: cell.width))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        return tuple(cell.width for cell in self.all_cells)

    @cached_property
    def eligible(self) -> tuple[Cell, ...]:
        """The widths with the most finished seeds.

        A width at which some seeds diverged would be judged by its lucky ones, so it represents the structure only if
        no width has more finished seeds.
        """
        most = max(len(cell.runs) for cell in self.cells)
        return tuple(cell for cell in self.cells if len(cell.runs) == most)

    @cached_property
    def best(self) -> Cell:
        """The eligible width with the lowest mean loss; the narrower one in a tie."""
        return min(self.eligible, key=lambda cell: (cell.log_mean, cell.width))


def levels_of(observations: Iterable[Observation]) -> dict[Hashable, tuple[Level, ...]]:
    """The levels of every structure, cheapest first, from runs of the stages 'pilot' and 'main'.

    If the same run is listed twice, the later one counts.
    """
    found: dict[tuple[Hashable, int, float], dict[tuple[Stage, int], dict[int, Observation]]] = {}
    for run in observations:
        if run.stage in ("pilot", "main"):
            widths = found.setdefault((run.structure, run.rung, run.budget), defaultdict(dict))
            widths[run.stage, run.width][run.seed] = run
    levels: dict[Hashable, list[Level]] = defaultdict(list)
    for (structure, rung, budget), widths in found.items():
        stage: Stage = "main" if any(kind == "main" for kind, _ in widths) else "pilot"
        cells = _cells(runs for (kind, _), runs in widths.items() if kind == stage)
        known = {cell.width for cell in cells}
        pilots = _cells(runs for (_, width), runs in widths.items() if width not in known)
        levels[structure].append(Level(rung, budget, cells, pilots))
    return {structure: tuple(sorted(mine, key=lambda level: level.rung)) for structure, mine in levels.items()}


def _cells(groups: Iterable[dict[int, Observation]]) -> tuple[Cell, ...]:
    return tuple(sorted((cell_of(runs.values()) for runs in groups), key=lambda cell: cell.width))


def cell_of(runs: Iterable[Observation]) -> Cell:
    """One cell of runs that differ in their seed."""
    return Cell(tuple(sorted(runs, key=lambda run: run.seed)))
