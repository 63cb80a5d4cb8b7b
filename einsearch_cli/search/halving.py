"""Rungs of a study, and which structures go on to the next one (successive halving)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from einsearch_cli.search.spec import HalvingSpec
from einsearch_cli.structures import LayerSpec

Controls = Mapping[LayerSpec, tuple[LayerSpec, ...]]
"""Controls, each with the candidates that brought it."""


def rung_budgets(budget_flops: float, halving: HalvingSpec) -> tuple[float, ...]:
    """Training FLOPs of a run on each rung, the cheapest first.

    >>> rung_budgets(9e9, HalvingSpec(rungs=3, factor=3))
    (1000000000.0, 3000000000.0, 9000000000.0)
    """
    return tuple(budget_flops / halving.factor**below for below in reversed(range(halving.rungs)))


def places(keep: float, others: int) -> int:
    """The number of the other structures that go on."""
    return math.ceil(keep * others)


def promoted(
    scores: Mapping[LayerSpec, float],
    structures: Sequence[LayerSpec],
    keep: float,
    always: Sequence[LayerSpec],
    controls: Controls,
) -> list[LayerSpec]:
    """The structures that go on: those that always do, the best share of the candidates, and controls.

    A control goes on with any of its candidates, and by itself if it is as good as the last candidate that goes on.
    Ties keep the given order; a structure without a loss never goes on.

    Args:
        scores: loss of each structure, infinite if it has none.
        structures: structures of this rung.
        keep: share of the candidates that goes on.
        always: the yardstick and the baselines.
        controls: not counted in the share.
    """
    candidates = [s for s in structures if s not in always and s not in controls]
    best = sorted(candidates, key=lambda s: scores[s])[: places(keep, len(candidates))]
    best = [s for s in best if math.isfinite(scores[s])]
    worst = max((scores[s] for s in best), default=-math.inf)

    def goes_on(structure: LayerSpec) -> bool:
        if structure in always or structure in best:
            return True
        kin = any(candidate in best or candidate in always for candidate in controls.get(structure, ()))
        return structure in controls and math.isfinite(scores[structure]) and (kin or scores[structure] <= worst)

    return [structure for structure in structures if goes_on(structure)]


def planned_counts(halving: HalvingSpec, structures: int, always: int, controls: int) -> list[int]:
    """Number of structures on every rung if all runs finish and controls go on with their candidates.

    >>> planned_counts(HalvingSpec(rungs=3, keep=0.5), structures=6, always=1, controls=1)
    [6, 4, 3]
    """
    others = [structures - always - controls]
    for _ in range(halving.rungs - 1):
        others.append(places(halving.keep, others[-1]))
    return [always + count + math.ceil(controls * count / max(1, others[0])) for count in others]
