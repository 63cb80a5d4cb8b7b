"""Runs whose loss does not fit those that differ from them in the seed alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from einsearch_cli.scaling.noise import Noise, noise_of, t_quantile
from einsearch_cli.scaling.observations import Cell, Level, Observation, cell_of

FALSE_ALARMS = 0.01
"""The largest chance of any outlier among the judged runs of a study whose log losses are normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A run far from the other seeds of its structure, rung and width."""

    run: Observation
    others: float
    """Geometric mean of the other seeds' losses."""
    deviations: float
    """Distance of its log loss from that of `others`, in standard deviations of one run; negative if it is lower."""


def outliers_within(levels: Mapping[Hashable, Sequence[Level]]) -> list[Outlier]:
    """The outliers among runs that are the source of the noise too: each cell is judged by the noise of all others."""
    cells = [(item, cell) for item, mine in levels.items() for level in mine for cell in level.cells]
    runs = sum(len(cell.runs) for _, cell in cells if len(cell.runs) > 1)
    found = []
    for item, cell in cells:
        others = [
            replace(level, cells=tuple(other for other in level.cells if other is not cell)) for level in levels[item]
        ]
        found += outliers([cell], noise_of({**levels, item: others}), runs)
    return found


def outliers(cells: Iterable[Cell], noise: Noise, runs: int | None = None) -> list[Outlier]:
    """The runs that chance alone hardly puts so far from their others, at most one for each cell.

    `noise` has to come from other runs than these; `runs` is the number of all that are judged, if there are more. One
    cell's run furthest from the median is held against the mean of the other n − 1. The difference has 1 + 1 / (n − 1)
    times the variance of one run, so divided by its standard error it is Student's t. The level is shared by all runs
    (Bonferroni), and so holds for the study. Of two seeds, neither of which is nearer to the median, the one with the
    higher loss is named.
    """
    compared = [cell for cell in cells if len(cell.runs) > 1]
    level = FALSE_ALARMS / max(1, runs or sum(len(cell.runs) for cell in compared))
    found = []
    for cell in compared:
        variance = noise.of_run(cell.runs[0].structure)
        if variance is None or variance.value <= 0:
            continue
        middle = median(cell.logs)
        far = max(cell.runs, key=lambda run: (round(abs(math.log(run.loss) - middle), 12), run.loss))
        others = cell_of(run for run in cell.runs if run is not far)
        deviations = (math.log(far.loss) - others.log_mean) / math.sqrt(variance.value)
        if abs(deviations) > t_quantile(variance.degrees, 1 - level) * math.sqrt(1 + 1 / len(others.runs)):
            found.append(Outlier(run=far, others=others.mean, deviations=deviations))
    return found
