"""The plan of a study, stage by stage: exact numbers of runs where possible, else expected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.halving import planned_counts, rung_budgets
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import LayerSpec, MixtureOfExperts

StudyStage = Literal[
    "explore", "rates", "widths", "rate check", "seeds", "more seeds", "confirmation", "without balance loss"
]
"""Stages in their order on a rung."""
TUNING: Final[tuple[StudyStage, ...]] = ("rates", "rate check")
"""Stages whose runs only search for learning rates."""

RATE_RUNS: Final = 4.0
"""Runs to find a rate: three, and one more if the best is at an edge."""
CHECK_RUNS: Final = 2.5
"""Runs to check a rate, in addition to the existing one: two, and one more if the best rate has moved."""
PILOT_RUNS: Final = 4.0
"""Runs to find the best width: three, and one more if the best is at an edge."""
SEEDED_WIDTHS: Final = 3.3
"""Widths that get all seeds: three, and sometimes one more."""
UNDECIDED: Final = 0.5
"""Share of the possible extra seeds that is used: 0.4 in simulated studies with gains from 0.8 to 1.35."""
MOVES: Final = 0.25
"""Share of structures whose rate changes on the last rung, so that the seeds there reuse no run of the pilots."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a study."""

    stage: StudyStage
    rung: int
    budget_flops: float
    structures: int
    runs: float
    """Expected number; a whole number if no result can change it."""

    @property
    def train_flops(self) -> float:
        return self.runs * self.budget_flops


def alike(stage: StudyStage, spec: StudySpec) -> int:
    """Runs of one structure and width that wait at once in a stage, and so may train in one pack.

    Rates are tried in threes, or in twos if one is known. Seeds come together, widths one by one.
    """
    together = {"rates": 3, "rate check": 2, "seeds": spec.seeds, "more seeds": spec.seeds, "confirmation": spec.seeds}
    return together.get(stage, 1)


def planned_stages(
    spec: StudySpec, candidates: Sequence[LayerSpec], networks: EqualNetworks | None = None
) -> list[PlannedStage]:
    """The stages of a study with their expected numbers of runs.

    Args:
        spec: the study.
        candidates: without the controls, which are added here, and without those that the study itself searches for.
        networks: which structures are one network at a width that the user gave, if known.
    """
    controls = spec.controls_of(candidates)
    structures, always = [*candidates, *controls], len(spec.compared_with())
    found = 0 if spec.explore is None else spec.explore.finalists
    networks_at = None if networks is None else [networks.distinct(structures, width) for width in spec.widths or ()]
    counts = planned_counts(spec.halving, len(structures) + found, always, len(controls))
    budgets = rung_budgets(spec.budget_flops, spec.halving)
    stages: list[PlannedStage] = []

    def add(stage: StudyStage, rung: int, count: int, runs: float) -> None:
        if runs:
            stages.append(PlannedStage(stage, rung, budgets[rung], count, runs))

    if spec.explore is not None:
        add("explore", 0, spec.explore.runs, spec.explore.runs)
    if spec.is_tuned:
        add("rates", 0, counts[0], RATE_RUNS * counts[0])
    for rung, count in enumerate(counts):
        checks = spec.is_tuned and rung + 1 == len(counts)
        widths = _runs_a_seed(spec, count, networks_at)
        if spec.widths is None:
            add("widths", rung, count, PILOT_RUNS * count)
        elif checks:
            add("widths", rung, count, widths)
        if checks:
            add("rate check", rung, count, CHECK_RUNS * count)
        has_pilots = spec.widths is None or checks
        first_seed = (MOVES if checks else 0.0) if has_pilots else 1.0
        add("seeds", rung, count, widths * (spec.seeds - 1 + first_seed))
    around = 3 if spec.widths is None else min(3, len(spec.widths))
    more = around * (spec.looks[-1] - spec.seeds)
    add("more seeds", len(budgets) - 1, counts[-1], more * (1 + UNDECIDED * (counts[-1] - 1)))
    champions = spec.confirm + (spec.explore is not None)  # the best found, and the best given
    confirmed = 1 + min(champions, counts[-1] - 1) if spec.confirm else 0
    add("confirmation", len(budgets) - 1, confirmed, confirmed * around * spec.seeds)
    if spec.ablate_balance:
        experts = min(counts[-1], sum(isinstance(structure, MixtureOfExperts) for structure in structures))
        add("without balance loss", len(budgets) - 1, experts, experts)
    return stages


def _runs_a_seed(spec: StudySpec, count: int, networks_at: Sequence[int] | None) -> float:
    if spec.widths is None:
        return SEEDED_WIDTHS * count
    return sum(min(count, distinct) for distinct in networks_at or [count] * len(spec.widths))


def run_total(stages: Sequence[PlannedStage]) -> int:
    """Expected number of runs."""
    return round(sum(stage.runs for stage in stages))
