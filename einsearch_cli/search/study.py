"""A whole study: stages of trials, each decided from the finished results of those before.

Every decision is a function of results, and every trial has a key under which its result is kept. So an interrupted
study makes the same decisions again, and a study with more seeds, candidates or rungs trains only what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from einsearch_cli.scaling import is_finished, levels_of, observations_of, rank_candidates
from einsearch_cli.scaling.surface import Minimum, surface
from einsearch_cli.search.bracket import best_point
from einsearch_cli.search.budgets import width_grid
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.exploring import explore
from einsearch_cli.search.halving import promoted, rung_budgets
from einsearch_cli.search.outcome import Exploration, Spending, StudyOutcome
from einsearch_cli.search.plan import PlannedStage, StudyStage, planned_stages, run_total
from einsearch_cli.search.rates import Rates
from einsearch_cli.search.spec import CONFIRMING_SEED, StudySpec
from einsearch_cli.search.stages import Stages, StudyEvent
from einsearch_cli.search.store import StudyStore
from einsearch_cli.search.widths import grid_number, log_slope
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.trial import Stage, Trial, TrialResult


def run_study(
    spec: StudySpec,
    candidates: Sequence[LayerSpec],
    task: AnyTask,
    networks: EqualNetworks,
    store: StudyStore,
    engine: Engine,
    on_event: Callable[[StudyEvent], None],
) -> StudyOutcome:
    """Run everything that is not finished yet and return the outcome of the study.

    Stages:

    - with `spec.explore`, a search for more candidates;
    - learning rates on the cheapest rung;
    - on every rung, one run per width around the best one, then all seeds at the three best;
    - on the last rung, a check of the rates before that, and more seeds for undecided candidates;
    - the confirmation, and runs without balance loss.

    If candidates are one network at a width, only the first is trained there; the others get its result.

    Stages are synchronous: one is decided when all trials of the one before have ended, so the outcome does not depend
    on timing, on the number of workers, or on interruptions.
    """
    stages = Stages(networks, store, engine, on_event, rung_budgets(spec.budget_flops, spec.halving))
    planned = planned_stages(spec, candidates, networks)
    exploration = None if spec.explore is None else explore(spec, candidates, task, stages)
    return _Course(spec, candidates, task, stages, planned, exploration).run()


class _Course:
    """One pass through the stages of a study."""

    def __init__(
        self,
        spec: StudySpec,
        candidates: Sequence[LayerSpec],
        task: AnyTask,
        stages: Stages,
        planned: Sequence[PlannedStage],
        exploration: Exploration | None,
    ) -> None:
        self.spec = spec
        self.stages = stages
        self.budgets, self.results = stages.budgets, stages.results
        self.planned, self.exploration = planned, exploration
        self.found = () if exploration is None else exploration.found
        candidates = list(dict.fromkeys([*candidates, *self.found]))
        self.controls = spec.controls_of(candidates)
        self.structures = [*candidates, *self.controls]
        self.grid = width_grid(spec, task)
        self.first = spec.ranking_seeds[:1]
        """The seed of the runs that search for rates and widths."""
        self.always = spec.compared_with()
        self.rates = Rates(spec, self.grid, stages)
        self.best_widths: dict[LayerSpec, dict[float, float]] = {structure: {} for structure in self.structures}
        self.chosen: dict[tuple[LayerSpec, int], list[int]] = {}
        """Numbers of the widths at which all seeds were trained, by (structure, rung)."""

    def run(self) -> StudyOutcome:
        last = len(self.budgets) - 1
        if self.spec.is_tuned:
            self.rates.tune(self.structures)
        survivors = self.structures
        scores: dict[LayerSpec, float] = {}
        for rung in range(last + 1):
            scores = self._run_rung(rung, survivors)
            if rung < last:
                always = [*self.always, *self._champions(survivors, scores)]
                survivors = promoted(scores, survivors, self.spec.halving.keep, always, self.controls)
        if self.exploration is not None:
            given = [s for s in self._champions(survivors, scores) if s not in self.found]
            self.exploration = replace(self.exploration, rival=next(iter(given), None))
        spending = self._add_seeds(last, survivors, scores)
        confirming = self._confirm(survivors, scores)
        ablations = self._ablate(last, survivors) if self.spec.ablate_balance else []
        ranked = self._ranked()
        others = (trial for trial in self.results if trial.stage in ("rates", "pilot"))
        return StudyOutcome(
            ranked=self._sorted(ranked.values()),
            confirmation=self._sorted(confirming),
            tuning=self._sorted(self._distinct(others, ranked).values()),
            unbalanced=self._sorted(ablations),
            explored=tuple(result for trial, result in self.results.items() if trial.stage == "explore"),
            exploration=self.exploration,
            rates=self.rates.found,
            controls=self.controls,
            spending=spending,
        )

    def _ranked(self) -> dict[str, Trial]:
        """The trials so far on which the ranking is based, by key."""
        main = self._distinct(trial for trial in self.results if trial.stage == "main" and trial.balanced)
        pilots = (t for t in self.results if t.stage == "pilot" and t.rate == self.rates.at(t.structure, t.rung))
        return main | self._distinct(pilots, main)

    def _sorted(self, trials: Iterable[Trial]) -> tuple[TrialResult, ...]:
        return tuple(sorted((self.results[trial] for trial in trials), key=lambda result: result.trial.rung))

    @staticmethod
    def _distinct(trials: Iterable[Trial], known: Mapping[str, Trial] | None = None) -> dict[str, Trial]:
        """The first trial of every key, without known ones: one run may serve several stages."""
        found: dict[str, Trial] = {}
        for trial in trials:
            if trial.key not in (known or {}):
                found.setdefault(trial.key, trial)
        return found

    def _trials(self, stage: Stage, structure: LayerSpec, rung: int, number: int, seeds: Iterable[int]) -> list[Trial]:
        """Trials of one structure at one width and its rate; pilots come before any check of the rate."""
        rate = self.rates.at_first(structure) if stage == "pilot" else self.rates.at(structure, rung)
        width, budget = self.grid.width(number), self.budgets[rung]
        return [Trial(structure, width, seed, rung, budget, stage=stage, rate=rate) for seed in seeds]

    def _run_rung(self, rung: int, structures: Sequence[LayerSpec]) -> dict[LayerSpec, float]:
        """Find the best width of every structure and spend the seeds there; returns the loss at its best width."""
        is_last = rung + 1 == len(self.budgets)
        starts = {s: self._expected_widths(s, rung) for s in structures}
        checks = self.spec.is_tuned and is_last
        if self.spec.widths is None or checks:
            pilots = self._search_widths("widths", rung, starts, self.first)
            if checks:
                best = {s: best_point(losses) for s, losses in pilots.items()}
                self.rates.check(rung, {s: number for s, number in best.items() if number is not None})
            starts = {s: self._window(losses) for s, losses in pilots.items()}
        losses = self._search_widths("seeds", rung, starts, self.spec.ranking_seeds)
        scores = dict.fromkeys(structures, math.inf)
        for structure, found in losses.items():
            self.chosen[structure, rung] = sorted(found)
            self._score(structure, rung, scores)
        return scores

    def _score(self, structure: LayerSpec, rung: int, scores: dict[LayerSpec, float]) -> None:
        """Record the best width of a structure at a rung, and its loss there."""
        if (minimum := self._minimum(structure, rung)) is not None:
            scores[structure] = minimum.log_loss
            self.best_widths[structure][self.budgets[rung]] = minimum.width

    def _minimum(self, structure: LayerSpec, rung: int) -> Minimum | None:
        """The loss of a structure at its best width of a rung, as in the ranking; None without a finished run."""
        runs = [self.results[trial] for trial in self._distinct(self._measured(structure, rung)).values()]
        levels = levels_of(observations_of(runs)).get(structure, ())
        found = surface(levels) if levels else None
        at = None if found is None else found.at(rung)
        return None if found is None or at is None else found.minima[at]

    def _measured(self, structure: LayerSpec, rung: int) -> Iterator[Trial]:
        """Trials of the ranking, up to a rung."""
        for trial in self.results:
            if trial.structure == structure and trial.rung <= rung and trial.stage == "main" and trial.balanced:
                yield trial

    def _expected_widths(self, structure: LayerSpec, rung: int) -> list[int]:
        budget, before = self.budgets[rung], self.best_widths[structure]
        if self.spec.widths is not None or not before:
            number = self.grid.guess(structure, budget)
        else:
            known, width = max(before.items())
            number = grid_number(width * (budget / known) ** log_slope(before))
        return self.grid.around(structure, number, budget)

    def _window(self, losses: Mapping[int, float]) -> list[int]:
        """The best width with its two neighbours; all widths if the user gave them."""
        best = best_point(losses)
        if self.spec.widths is not None or best is None:
            return sorted(losses)
        return _three_around(sorted(losses), best)

    def _search_widths(
        self, stage: StudyStage, rung: int, starts: Mapping[LayerSpec, list[int]], seeds: Sequence[int]
    ) -> dict[LayerSpec, dict[int, float]]:
        is_fixed, budget = self.spec.widths is not None, self.budgets[rung]
        return self.stages.search(
            stage,
            rung,
            starts,
            lambda s, number: self._trials("pilot" if stage == "widths" else "main", s, rung, number, seeds),
            lambda s, number, step: None if is_fixed else self.grid.neighbour(s, number, step, budget),
            leaps=stage == "widths",
        )

    def _add_seeds(self, rung: int, survivors: Sequence[LayerSpec], scores: dict[LayerSpec, float]) -> Spending:
        """Add seeds at the best widths of candidates whose verdict they may settle, and of the yardstick.

        At every look, the ranking is made as it will be at the end, with bounds for all looks, so the level of its
        verdicts holds. A candidate that becomes undecided again gets the seeds that it lacks.
        """
        yardstick, looks, extended = self.always[0], self.spec.looks, list[int]()
        finished = [s for s in survivors if self.budgets[rung] in self.best_widths[s]]
        seeds = dict.fromkeys(finished, looks[0])
        for look in looks[1:]:
            ranking = rank_candidates(self._sorted(self._ranked().values()), yardstick, looks=looks, laws=False)
            undecided = [s for s in ranking.undecided() if s in finished]
            if not undecided:
                break
            extended.append(len(undecided))
            numbers = range(self.spec.first_seed, self.spec.first_seed + look)
            trials = [
                trial
                for structure in (yardstick, *undecided)
                for number in self._best_three(structure, rung)
                for trial in self._trials("main", structure, rung, number, numbers)
                if trial not in self.results
            ]
            self.stages.run("more seeds", rung, trials, goes_on=len(extended) > 1)
            for structure in (yardstick, *undecided):
                seeds[structure] = look
                self._score(structure, rung, scores)
        places = [(s, self.grid.width(number)) for s in seeds for number in self._best_three(s, rung)]
        lacking = {(width, self.stages.networks.key(s, width)): looks[-1] - seeds[s] for s, width in places}
        saved = sum(lacking.values())
        return Spending(
            planned_runs=run_total(self.planned),
            planned_flops=sum(stage.train_flops for stage in self.planned),
            looks=looks,
            extended=tuple(extended),
            saved_runs=saved,
            saved_flops=saved * self.budgets[rung],
        )

    def _confirm(self, survivors: Sequence[LayerSpec], scores: Mapping[LayerSpec, float]) -> list[Trial]:
        """Train the best and the yardstick again, on the last rung around their best widths, from separate seeds.

        After a search, these are the best found and the best given candidate.
        """
        yardstick, *_ = self.always
        rivals = [s for s in survivors if s != yardstick and math.isfinite(scores[s])]
        best = sorted(rivals, key=lambda s: scores[s])[: self.spec.confirm]
        best = list(dict.fromkeys([*best, *(self._champions(survivors, scores) if self.spec.confirm else [])]))
        if not best or not math.isfinite(scores.get(yardstick, math.inf)):
            return []
        seeds, rung = [CONFIRMING_SEED + seed for seed in self.spec.ranking_seeds], len(self.budgets) - 1
        trials = [
            trial
            for structure in (yardstick, *best)
            for number in self._best_three(structure, rung)
            for trial in self._trials("confirmation", structure, rung, number, seeds)
        ]
        self.stages.run("confirmation", rung, trials)
        return trials

    def _champions(self, structures: Sequence[LayerSpec], scores: Mapping[LayerSpec, float]) -> list[LayerSpec]:
        """After a search, the best found and the best given candidate, which are compared to the end."""
        if not self.found:
            return []
        given = [s for s in structures if s not in (*self.found, *self.controls, self.always[0])]
        found = [s for s in structures if s in self.found]
        best = [min(some, key=lambda s: scores[s]) for some in (found, given) if some]
        return [s for s in best if math.isfinite(scores[s])]

    def _nearest(self, structure: LayerSpec, rung: int) -> int:
        """The chosen width that is nearest to the best one."""
        best = self.best_widths[structure][self.budgets[rung]]
        return min(self.chosen[structure, rung], key=lambda number: abs(math.log(self.grid.width(number) / best)))

    def _best_three(self, structure: LayerSpec, rung: int) -> list[int]:
        """The chosen width nearest to the best one, with its neighbours."""
        return _three_around(self.chosen[structure, rung], self._nearest(structure, rung))

    def _ablate(self, rung: int, survivors: Sequence[LayerSpec]) -> list[Trial]:
        """The run that stands for each structure with experts: its first finished seed at the best width."""
        found = []
        for structure in survivors:
            if isinstance(structure, MixtureOfExperts) and self.budgets[rung] in self.best_widths[structure]:
                number = self._nearest(structure, rung)
                trials = self._trials("main", structure, rung, number, self.spec.ranking_seeds)
                finished = next((trial for trial in trials if is_finished(self.results[trial])), None)
                found += [] if finished is None else [replace(finished, balanced=False)]
        self.stages.run("without balance loss", rung, found)
        return found


def _three_around(numbers: list[int], middle: int) -> list[int]:
    """A number with its two neighbours; at an end, the three numbers there."""
    first = min(max(numbers.index(middle) - 1, 0), max(len(numbers) - 3, 0))
    return numbers[first : first + 3]
