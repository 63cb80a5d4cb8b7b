"""The same runs seen two other ways: loss over width at equal compute, and loss over tokens per parameter."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from einsearch_cli.scaling.observations import Level, Observation, cell_of, levels_of
from einsearch_cli.scaling.surface import surface


@dataclass(frozen=True, slots=True, kw_only=True)
class Isoflop:
    """Loss against size at one budget (Hoffmann et al. 2022, approach 2)."""

    structure: Hashable
    rung: int
    budget_flops: float
    points: tuple[tuple[int, int, float], ...]
    """(width, parameters, geometric mean of the losses), narrow to wide; pilot runs where there is nothing else."""
    best_width: float
    """At the minimum of the fitted parabola, or of the points where `reason` is given."""
    best_loss: float
    reason: str | None
    """Why the minimum is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtraining:
    """Loss against tokens per parameter at one width (Sardana et al. 2024): how far training longer pays."""

    structure: Hashable
    width: int
    points: tuple[tuple[float, float], ...]
    """(tokens per parameter, geometric mean of the losses), rising."""


def isoflops(observations: Iterable[Observation]) -> tuple[Isoflop, ...]:
    """One curve for each structure and rung, in the order of their first runs."""
    runs = [run for run in observations if run.stage != "confirmation"]
    found = []
    for structure, levels in levels_of(runs).items():
        for minimum in surface(levels).minima:
            found.append(
                Isoflop(
                    structure=structure,
                    rung=minimum.level.rung,
                    budget_flops=minimum.level.budget_flops,
                    points=_points(minimum.level, [run for run in runs if run.structure == structure]),
                    best_width=minimum.width,
                    best_loss=minimum.loss,
                    reason=minimum.reason,
                )
            )
    return tuple(found)


def _points(level: Level, runs: Iterable[Observation]) -> tuple[tuple[int, int, float], ...]:
    """Every width of a level, those of pilot runs included."""
    cells = {cell.width: cell for cell in level.cells}
    mine = [run for run in runs if run.rung == level.rung]
    cells |= {width: cell_of(run for run in mine if run.width == width) for width in level.widths if width not in cells}
    return tuple((width, cells[width].params, cells[width].mean) for width in level.widths)


def overtraining(observations: Iterable[Observation]) -> tuple[Overtraining, ...]:
    """One curve for each structure and width that was trained at two budgets or more; needs `tokens`."""
    groups: dict[tuple[Hashable, int], dict[int, list[Observation]]] = {}
    for run in observations:
        if run.tokens is not None and run.params > 0:
            groups.setdefault((run.structure, run.width), {}).setdefault(run.rung, []).append(run)
    found = []
    for (structure, width), rungs in groups.items():
        if len(rungs) > 1:
            points = [
                (sum((run.tokens or 0.0) / run.params for run in mine) / len(mine), cell_of(mine).mean)
                for mine in rungs.values()
            ]
            found.append(Overtraining(structure=structure, width=width, points=tuple(sorted(points))))
    return tuple(found)
