"""From finished runs to the loss of a structure as a function of training compute.

Words used in this package: a *cell* holds the runs of one structure at one rung and
width that differ only in their seed; a *level* is one rung, i.e. one training budget;
C is training compute in FLOPs without embeddings and head; L is the validation loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from einsearch_cli.structures import LayerSpec
from einsearch_cli.training.proxy.trial import TrialResult

FrontierKind = Literal["empty", "one point", "piecewise linear", "convex hull"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Finished runs of one structure at one rung and one width."""

    rung: int
    budget_flops: float
    width: int
    params: int
    compute: float
    """Mean training FLOPs of the runs; embeddings and head are not counted."""
    losses: tuple[tuple[int, float], ...]
    """(seed, validation loss), sorted by seed, never empty."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seed for seed, _ in self.losses)

    @property
    def mean(self) -> float:
        """Mean validation loss over seeds."""
        return math.fsum(loss for _, loss in self.losses) / len(self.losses)


@dataclass(frozen=True, slots=True)
class Level:
    """All widths of one structure at one rung, and the widths that may stand for it."""

    rung: int
    budget_flops: float
    cells: tuple[Cell, ...]
    """Every width with a finished run, narrow to wide."""

    @property
    def eligible(self) -> tuple[Cell, ...]:
        """The widths with the most finished seeds.

        A width at which some seeds diverged would be judged by its lucky ones, so it
        stands for the structure only when no width did better.
        """
        most = max(len(cell.losses) for cell in self.cells)
        return tuple(cell for cell in self.cells if len(cell.losses) == most)

    @property
    def best(self) -> Cell:
        """The eligible width with the lowest mean loss; the narrower one on a tie."""
        return min(self.eligible, key=lambda cell: (cell.mean, cell.width))


def finished_loss(result: TrialResult) -> float | None:
    """The loss of a run that finished with a finite loss, else None."""
    if result.status != "ok" or result.loss is None or not math.isfinite(result.loss):
        return None
    return result.loss


def levels_of(results: Iterable[TrialResult], structure: LayerSpec) -> tuple[Level, ...]:
    """The levels of `structure` that have at least one finished run, cheapest first.

    When the same trial is listed twice, the later result counts.
    """
    losses: dict[tuple[int, float, int], dict[int, tuple[float, TrialResult]]] = defaultdict(dict)
    for result in results:
        loss = finished_loss(result)
        trial = result.trial
        if loss is not None and trial.structure == structure:
            losses[trial.rung, trial.budget_flops, trial.width][trial.seed] = (loss, result)
    by_level: dict[tuple[int, float], list[Cell]] = defaultdict(list)
    for (rung, budget, width), runs in sorted(losses.items()):
        by_level[rung, budget].append(_cell(rung, budget, width, runs))
    return tuple(Level(rung, budget, tuple(cells)) for (rung, budget), cells in sorted(by_level.items()))


def _cell(rung: int, budget: float, width: int, runs: dict[int, tuple[float, TrialResult]]) -> Cell:
    seeds = sorted(runs)
    return Cell(
        rung=rung,
        budget_flops=budget,
        width=width,
        params=runs[seeds[0]][1].params,
        compute=math.fsum(runs[seed][1].train_flops for seed in seeds) / len(seeds),
        losses=tuple((seed, runs[seed][0]) for seed in seeds),
    )


@dataclass(frozen=True, slots=True)
class Frontier:
    """The lowest loss reached with a given compute: L falls as C rises along `points`."""

    points: tuple[tuple[float, float], ...]
    """(C, L), both positive, C rising and L falling strictly."""
    kind: FrontierKind

    @property
    def lowest_loss(self) -> float:
        return self.points[-1][1]

    @property
    def highest_loss(self) -> float:
        return self.points[0][1]

    def compute_at(self, loss: float) -> float | None:
        """Training FLOPs at which the frontier reaches `loss`; None outside its range.

        Straight lines in (log C, log L) between neighbouring points; nothing is
        extrapolated.

        >>> Frontier(((1e9, 0.4), (1e11, 0.1)), "piecewise linear").compute_at(0.2)
        10000000000.0
        >>> Frontier(((1e9, 0.4), (1e11, 0.1)), "piecewise linear").compute_at(0.05) is None
        True
        """
        if not self.points or not self.lowest_loss <= loss <= self.highest_loss:
            return None
        for compute, reached in self.points:  # exact at the points themselves
            if reached == loss:
                return compute
        for (c0, l0), (c1, l1) in zip(self.points, self.points[1:], strict=False):
            if l1 < loss < l0:
                share = math.log(l0 / loss) / math.log(l0 / l1)
                return c0 * math.pow(c1 / c0, share)
        return None  # pragma: no cover - the range check above leaves no gap


def frontier(points: Sequence[tuple[float, float]]) -> Frontier:
    """Compute-optimal frontier of (C, L) points: the lower convex hull of (log C, log L).

    Points with C ≤ 0 or L ≤ 0 have no logarithm and are left out (the irreducible
    loss L₀ is taken as 0). So are points that a cheaper one beats: whoever may spend
    more may also spend less. With three or more points left, those above the chord of
    their neighbours are dropped (Potapczynski et al. 2024); with two, the
    frontier is the line through them; with one it is a point that covers one loss only.

    >>> frontier([(1.0, 8.0), (2.0, 7.9), (4.0, 2.0), (8.0, 3.0)])
    Frontier(points=((1.0, 8.0), (4.0, 2.0)), kind='convex hull')
    """
    falling: list[tuple[float, float]] = []
    for compute, loss in sorted(point for point in points if _has_logarithm(point)):
        if not falling or loss < falling[-1][1]:
            falling.append((compute, loss))
    if len(falling) >= 3:
        return Frontier(tuple(_lower_hull(falling)), "convex hull")
    kinds: tuple[FrontierKind, ...] = ("empty", "one point", "piecewise linear")
    return Frontier(tuple(falling), kinds[len(falling)])


def _has_logarithm(point: tuple[float, float]) -> bool:
    return all(math.isfinite(value) and value > 0 for value in point)


def _lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Andrew's monotone chain on points sorted by compute."""
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) >= 2 and _is_above_chord(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _is_above_chord(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    run, rise = math.log(right[0] / left[0]), math.log(right[1] / left[1])
    # The slack keeps points that lie on one power law and differ from it by rounding only.
    return math.log(middle[1] / left[1]) * run > rise * math.log(middle[0] / left[0]) + 1e-12
