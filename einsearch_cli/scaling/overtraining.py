"""Losses of a study's runs over tokens per parameter: how far does longer training of one network pay off?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from einsearch_cli.scaling.observations import Observation, cell_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtraining:
    """Loss against tokens per parameter at one width (Sardana et al. 2024): how far longer training pays off."""

    structure: Hashable
    width: int
    points: tuple[tuple[float, float], ...]
    """Pairs (tokens per parameter, geometric mean of the losses), rising."""


def overtraining(observations: Iterable[Observation]) -> tuple[Overtraining, ...]:
    """One curve for each structure and width with two budgets or more; observations without `tokens` are ignored."""
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
