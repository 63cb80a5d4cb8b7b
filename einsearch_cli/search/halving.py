"""Rungs of a study and who goes on to the next (successive halving)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from einsearch_cli.search.spec import HalvingSpec
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.training.proxy.trial import Trial, TrialResult


def rung_budgets(budget_flops: float, halving: HalvingSpec) -> tuple[float, ...]:
    """Training FLOPs of a run on each rung, the cheapest first.

    >>> rung_budgets(9e9, HalvingSpec(rungs=3, factor=3))
    (1000000000.0, 3000000000.0, 9000000000.0)
    """
    return tuple(budget_flops / halving.factor**below for below in reversed(range(halving.rungs)))


def rung_trials(
    structures: Iterable[LayerSpec], widths: Sequence[int], seeds: int, rung: int, budget_flops: float
) -> list[Trial]:
    """All trials of a rung; seeds outermost, so that an interrupted rung has whole seeds."""
    return [
        Trial(structure, width, seed, rung, budget_flops)
        for seed in range(seeds)
        for structure in structures
        for width in widths
    ]


def places(keep: float, others: int) -> int:
    """How many of the other structures go on."""
    return math.ceil(keep * others)


def promoted(
    results: Sequence[TrialResult], structures: Sequence[LayerSpec], keep: float, always: Sequence[LayerSpec]
) -> list[LayerSpec]:
    """The structures that go on: those that always do, and the best share of the others.

    A structure's score is the mean loss over seeds at its best width; a width that lost
    a seed does not compete with widths that kept theirs. Ties keep the given order.
    """
    others = [structure for structure in structures if structure not in always]
    scores = {structure: rung_score(results, structure) for structure in others}
    best = sorted(others, key=lambda s: scores[s])[: places(keep, len(others))]
    return [s for s in structures if s in always or (s in best and math.isfinite(scores[s]))]


def rung_score(results: Sequence[TrialResult], structure: LayerSpec) -> float:
    """Mean loss over seeds at the best of the widths with the most finished runs, infinite if there are none."""
    return min(_scores(results, structure).values(), default=math.inf)


def ablation_trials(results: Sequence[TrialResult], structures: Iterable[LayerSpec]) -> list[Trial]:
    """The run that stands for each structure with experts, to be done without the loss that balances them.

    It is that of the first seed at the best width.
    """
    found = []
    for structure in structures:
        scores = _scores(results, structure)
        if not isinstance(structure, MixtureOfExperts) or not scores:
            continue
        width = min(scores, key=lambda width: (scores[width], width))
        finished = [result.trial for result in _finished(results, structure) if result.trial.width == width]
        found.append(replace(min(finished, key=lambda trial: trial.seed), balanced=False))
    return found


def _scores(results: Sequence[TrialResult], structure: LayerSpec) -> dict[int, float]:
    """Mean loss over seeds of the widths with the most finished runs."""
    losses: dict[int, list[float]] = {}
    for result in _finished(results, structure):
        losses.setdefault(result.trial.width, []).append(result.loss or 0.0)
    most = max(map(len, losses.values()), default=0)
    return {width: statistics.fmean(values) for width, values in losses.items() if len(values) == most}


def _finished(results: Sequence[TrialResult], structure: LayerSpec) -> list[TrialResult]:
    return [result for result in results if result.trial.structure == structure and result.loss is not None]
