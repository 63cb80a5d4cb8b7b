"""The search for candidates: many structures with one short run each, then the best again with other seeds.

The search comes before the ranking of a study and runs on its cheapest rung, through the same stages, store and engine.
Its runs have separate seeds, so the runs that chose the candidates are not part of the ranking.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Final

import numpy as np

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling import vertex
from einsearch_cli.search.budgets import width_grid
from einsearch_cli.search.explore_spec import EXPLORING_SEED
from einsearch_cli.search.outcome import Exploration
from einsearch_cli.search.proposing import Proposals
from einsearch_cli.search.rates import next_octave
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.stages import Stages, log_loss
from einsearch_cli.structures import LayerSpec, expert_of
from einsearch_cli.tasks import AnyTask
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.training.proxy.trial import Trial

if TYPE_CHECKING:  # importing Optuna takes half a second
    import optuna

MOST_KNOWN: Final = 60
"""The number of proposals in a row that are known networks, after which the search ends early."""


def explore(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask, stages: Stages) -> Exploration:
    """Search for structures worth ranking with the candidates, as `spec.explore` says.

    1. The first two candidates find their best width (and rate), which says how many FLOPs per token pay at this budget.
    2. Every other candidate, and then every proposal, is trained once at the width whose FLOPs come nearest to that.
       A proposal that is a network known from before costs no run; the sampler gets its loss.
    3. The best get a second seed, the best half of them two more; the order after that is the result.

    Raises:
        SpecError: every proposal is a network that was known before.
    """
    return _Exploring(spec, candidates, task, stages).run()


@dataclass
class _Network:
    """Results of one network."""

    structure: LayerSpec
    number: int
    """Number of its width in the grid of widths."""
    log_losses: list[float] = field(default_factory=list)
    is_proposal: bool = False


class _Exploring:
    def __init__(self, spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask, stages: Stages) -> None:
        assert spec.explore is not None
        self.spec, self.explore, self.candidates, self.stages = spec, spec.explore, candidates, stages
        self.grid, self.budget = width_grid(spec, task), stages.budgets[0]
        self.proposals = Proposals(spec.explore, spec.first_seed)
        self.networks: dict[Hashable, _Network] = {}
        self.anchors: list[tuple[float, float]] = []
        """Pairs (ν, log of the FLOPs per token at the best width) of the structures whose width was searched."""
        self.rate = 1.0
        self.repeated = 0
        self._trained: set[str] = set()
        """Keys of the runs of this search."""

    @property
    def seed(self) -> int:
        return EXPLORING_SEED + self.spec.first_seed

    @property
    def left(self) -> int:
        """Runs that may still be spent on new structures."""
        return self.explore.runs - self.explore.repeats - len(self._trained)

    def run(self) -> Exploration:
        self._find_widths(self.candidates[:2])
        self._train([item for s in self.candidates[2:] if (item := self._place(s)) is not None][: max(0, self.left)])
        for item in self.networks.values():
            if item.log_losses:
                self.proposals.add(item.structure, item.log_losses[0])
        is_over = False
        while self.left > 0 and not is_over:
            is_over = not self._propose(min(self.explore.batch, self.left))
        if not any(item.is_proposal for item in self.networks.values()) and self.left <= 0:
            raise SpecError(
                f"the search has {self.explore.runs} runs, and none is left for new structures: candidates took "
                f"{len(self._trained)}, and {self.explore.repeats} are kept to train the best again",
                remedy=f"runs: {max(60, 4 * len(self._trained))}, or fewer candidates",
                keys=("explore", "runs"),
            )
        best = self._repeat()
        if not best:
            width = self.grid.width(next(iter(self.networks.values())).number)
            raise SpecError(
                f"the search found no network besides those of the candidates: at {self.budget:.3g} FLOPs a run, with "
                f"widths around {width}, exponents of all proposals round to these",
                remedy="give a larger budget or wider widths, or relax the bounds",
                keys=("budget_flops",),
            )
        return Exploration(
            sampler=self.explore.sampler,
            factors=self.explore.factors,
            runs=len(self._trained),
            pruned=self.proposals.pruned,
            repeated=self.repeated,
            found=tuple(item.structure for item in best[: self.explore.finalists]),
        )

    def _trial(self, structure: LayerSpec, number: int, seed: int, rate: float | None = None) -> Trial:
        rate = self.rate if rate is None else rate
        return Trial(structure, self.grid.width(number), seed, 0, self.budget, stage="explore", rate=rate)

    def _find_widths(self, structures: Sequence[LayerSpec]) -> None:
        """Find the best widths, and the rates there, of the structures that serve as anchors for all others."""
        seed, budget = self.seed, self.budget
        found = self.stages.search(
            "explore", 0,
            {s: self.grid.around(s, self.grid.guess(s, budget), budget) for s in structures},
            lambda s, number: [self._trial(s, number, seed)],
            lambda s, number, step: self.grid.neighbour(s, number, step, budget),
            leaps=True,
        )  # fmt: skip
        self._count()
        best: dict[LayerSpec, int] = {}
        for structure, losses in found.items():
            flops = {number: self._log_flops(structure, number) for number in losses}
            if any(map(math.isfinite, losses.values())):
                at = vertex(list(flops.values()), list(losses.values())).at
                self.anchors.append((float(taxonomy_of(expert_of(structure)).nu), at))
                best[structure] = min(flops, key=lambda number: abs(flops[number] - at))
        self.anchors.sort()
        if self.spec.is_tuned and best:
            rates = self.stages.search(
                "explore", 0,
                {s: [-1, 0, 1] for s in best},
                lambda s, octave: [self._trial(s, best[s], seed, 2.0**octave)],
                next_octave,
            )  # fmt: skip
            self._count()
            lowest = [vertex([o * math.log(2) for o in tried], list(tried.values())).at for tried in rates.values()]
            self.rate = float(f"{math.exp(fmean(lowest)):.3g}")
        for structure, number in best.items():
            if (item := self._place(structure, number)) is not None:
                self._train([item])

    def _count(self) -> None:
        """Count the new runs; a copy of another network's run costs nothing."""
        for trial, result in self.stages.results.items():
            if trial.stage == "explore" and result.trained_as is None:
                self._trained.add(trial.key)

    def _log_flops(self, structure: LayerSpec, number: int) -> float:
        flops = self.grid.flops_per_token(structure, number)
        return math.inf if flops is None else math.log(flops)

    def _wanted(self, structure: LayerSpec) -> float:
        """Log of the FLOPs per token that pay off for a structure, interpolated between those of the anchors by ν."""
        at = float(taxonomy_of(expert_of(structure)).nu)
        return float(np.interp(at, [nu for nu, _ in self.anchors], [flops for _, flops in self.anchors]))

    def _place(self, structure: LayerSpec, number: int | None = None) -> _Network | None:
        """The network of a structure at the width that pays off, known or new; None if it fits no width."""
        if number is None:
            number = self.grid.expected(structure, self.budget)
            if number is None:
                return None
            number = self._nearest(structure, number) if self.anchors else number
        key = self.stages.networks.key(structure, self.grid.width(number)), number
        return self.networks.setdefault(key, _Network(structure, number))

    def _nearest(self, structure: LayerSpec, number: int) -> int:
        """Step to the width whose FLOPs per token are nearest to the wanted ones."""
        wanted = self._wanted(structure)
        away = abs(self._log_flops(structure, number) - wanted)
        for step in (-1, 1):
            while (other := self.grid.neighbour(structure, number, step, self.budget)) is not None:
                if (distance := abs(self._log_flops(structure, other) - wanted)) >= away:
                    break
                number, away = other, distance
        return number

    def _train(self, items: Sequence[_Network], seeds: Sequence[int] = (0,)) -> None:
        trials = {
            (id(item), seed): self._trial(item.structure, item.number, self.seed + seed)
            for item in items
            for seed in seeds
        }
        self.stages.run("explore", 0, list(trials.values()), goes_on=True)
        self._count()
        for item in items:
            item.log_losses += [log_loss(self.stages.results[trials[id(item), seed]]) for seed in seeds]

    def _propose(self, number: int) -> bool:
        """Train `number` new networks that the sampler proposes; returns whether there were any."""
        asked: list[tuple[optuna.Trial, _Network]] = []
        new: dict[int, _Network] = {}
        known = 0
        while len(new) < number and known < MOST_KNOWN:
            trial, structure = self.proposals.ask()
            item = self._place(structure)
            if item is None or item.log_losses:
                self.proposals.tell(trial, math.inf if item is None else item.log_losses[0])
                known += 1
            else:  # reported after its training
                asked.append((trial, item))
                known += id(item) in new
                new[id(item)] = item
                item.is_proposal = True
        self.repeated += known
        self._train(list(new.values()))
        for trial, item in asked:
            self.proposals.tell(trial, item.log_losses[0])
        return bool(new)

    def _repeat(self) -> list[_Network]:
        """The networks found, best first, after the best were trained with more seeds."""
        order = sorted((n for n in self.networks.values() if n.is_proposal), key=lambda item: item.log_losses[0])
        order = [item for item in order if math.isfinite(item.log_losses[0])]
        left = self.explore.runs - len(self._trained)
        first = min(len(order), max(1, left // 2))
        self._train(order[:first], [1])
        order[:first] = sorted(order[:first], key=lambda item: fmean(item.log_losses))
        second = max(1, first // 4)
        more = max(1, (left - first) // second)
        self._train(order[:second], range(2, 2 + more))
        order[:second] = sorted(order[:second], key=lambda item: fmean(item.log_losses))
        return order
