"""`StudyReport`: the data from which a report is made."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, Self

from einsearch_cli.reports.numbers import loss_text, percent_text
from einsearch_cli.scaling import (
    Cell,
    Level,
    Observation,
    Ranking,
    RankingEntry,
    is_finished,
    levels_of,
    observations_of,
    rank_candidates,
)
from einsearch_cli.scaling.comparisons import confirmed_surface
from einsearch_cli.scaling.exponents import ExponentEffects, exponent_effects
from einsearch_cli.scaling.noise import noise_of
from einsearch_cli.scaling.outliers import Outlier, outliers, outliers_within
from einsearch_cli.scaling.surface import Surface, surface
from einsearch_cli.search.outcome import Exploration, Spending, TunedRate, rate_warnings
from einsearch_cli.showing import Tabular
from einsearch_cli.structures import LayerSpec, Structure, expert_of, layer_family, short_name
from einsearch_cli.taxonomy import Taxonomy, taxonomy_of
from einsearch_cli.training.proxy.trial import TrialResult
from einsearch_cli.training.proxy.width_trends import LayerCoordinates, trend_warnings


@dataclass(frozen=True, kw_only=True)
class StudyReport(Tabular):
    """A finished, or stopped, study with what a reader needs to judge and repeat it."""

    title: str
    task: str
    """The proxy task by name, e.g. 'teacher'."""
    budget_flops: float
    """Training FLOPs per run at the last rung; embeddings and head not counted."""
    results: tuple[TrialResult, ...]
    ranking: Ranking
    comparisons: tuple[Ranking, ...] = ()
    """Rankings of these results with other yardsticks, the baselines of the study."""
    unbalanced: tuple[TrialResult, ...] = ()
    """Runs with experts, repeated without the loss that balances their load."""
    confirmation: tuple[TrialResult, ...] = ()
    """The best and the yardstick again, from seeds that had no part in any decision."""
    tuning: tuple[TrialResult, ...] = ()
    """Runs that only searched for learning rates."""
    explored: tuple[TrialResult, ...] = ()
    """Runs that searched for candidates; none is in the ranking."""
    exploration: Exploration | None = None
    """The result of the search; None if candidates were given."""
    rates: Mapping[LayerSpec, TunedRate] = field(default_factory=dict)
    """The learning rate of each structure, where they were tuned."""
    controls: Mapping[LayerSpec, tuple[LayerSpec, ...]] = field(default_factory=dict)
    """Structures that were added as controls, and the candidates that brought each."""
    spending: Spending | None = None
    """The plan, and how seeds were added; None if a study was made without a plan."""
    step_seconds: Mapping[tuple[LayerSpec, int], float] = field(default_factory=dict)
    """Seconds of a training step by structure and width, from a race of all of them."""
    coordinates: tuple[LayerCoordinates, ...] = ()
    """The coordinate check of the ranked networks, where one was made."""
    loss_name: str = "validation loss"
    """Name of the loss with its unit, e.g. 'validation loss (nats per character)'."""
    setup: Mapping[str, str] = field(default_factory=dict)
    """Facts about task, data, network and optimizer, as sentences by name; empty for results of earlier versions."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """All settings in the form of a study file that repeats the study; empty for results of earlier versions."""
    commands: tuple[str, ...] = ()
    """Shell commands that repeat the study."""
    environment: tuple[tuple[str, str], ...] = ()
    """(name, value): Python, torch, platform, einsearch version, ..."""
    notes: tuple[str, ...] = ()
    """Remarks for the reader, one sentence each, e.g. on how the data was made."""

    @classmethod
    def of_runs(cls, yardsticks: Sequence[LayerSpec], *, at: float | None = None, **parts: Any) -> Self:
        """A report whose runs are ranked against each yardstick; `at` are FLOPs at which losses are predicted.

        Laws take the longest, and are those of the first yardstick's ranking. `parts` are all other fields.
        """
        runs, seconds = (*parts["results"], *parts["confirmation"]), parts["step_seconds"]
        looks = () if parts["spending"] is None else parts["spending"].looks
        ranking, *comparisons = (
            rank_candidates(runs, against, step_seconds=seconds, looks=looks, at=at, laws=number == 0)
            for number, against in enumerate(yardsticks)
        )
        return cls(ranking=ranking, comparisons=tuple(comparisons), **parts)

    def __post_init__(self) -> None:
        unranked = {result.trial.structure for result in self.results} - set(self.structures)
        if unranked:
            raise ValueError(f"the ranking was made from other results: it lacks {', '.join(map(str, unranked))}")

    @property
    def command(self) -> str:
        """The command of einsearch that made the study."""
        return "rank" if self.exploration is None else "search"

    @property
    def all_runs(self) -> tuple[TrialResult, ...]:
        """All runs, whatever their purpose."""
        return (*self.results, *self.confirmation, *self.tuning, *self.unbalanced, *self.explored)

    def records(self) -> list[dict[str, Any]]:
        """One row for each run, whatever its purpose; `stage` names it."""
        return [self.run_record(result) for result in self.all_runs]

    def run_record(self, result: TrialResult) -> dict[str, Any]:
        """One run as plain values, without its curve and what its routers did; None where a number is not finite."""
        trial = result.trial
        record = {
            "structure": str(trial.structure),
            **self.taxonomy_record(trial.structure),
            "rung": trial.rung,
            "budget_flops": trial.budget_flops,
            "width": trial.width,
            "seed": trial.seed,
            "stage": trial.stage,
            "balanced": trial.balanced,
            "rate": trial.rate,
            "learning_rate": result.learning_rate,
            "status": result.status,
            "loss": result.loss,
            "params": result.params,
            "train_flops": result.train_flops,
            "total_flops": result.total_flops,
            "executed_flops": result.executed_flops,
            "steps": result.steps,
            "tokens": result.tokens,
            "elapsed_s": result.elapsed_s,
            "error": result.error,
            "trained_as": None if result.trained_as is None else str(result.trained_as),
        }
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }

    def taxonomy_record(self, structure: LayerSpec) -> dict[str, str]:
        """Family, and ω, ψ and ν as exact texts."""
        known = self.classes[structure]
        return {
            "family": layer_family(structure),
            "omega": str(known.omega),
            "psi": str(known.psi),
            "nu": str(known.nu),
        }

    @cached_property
    def structures(self) -> tuple[LayerSpec, ...]:
        """All structures, best first."""
        return tuple(entry.structure for entry in self.ranking.entries)

    @cached_property
    def levels(self) -> dict[LayerSpec, tuple[Level, ...]]:
        """The levels of each structure, cheapest first; empty where no run finished."""
        found = levels_of(self.observations)
        return {structure: found.get(structure, ()) for structure in self.structures}

    @cached_property
    def observations(self) -> list[Observation]:
        """Every finished run as plain numbers."""
        return observations_of(self.results)

    def runs_of(self, structure: LayerSpec, cell: Cell) -> tuple[TrialResult, ...]:
        """The runs that a width of a structure's level consists of."""
        found = self._finished[structure, cell.rung, cell.width, cell.runs[0].stage]
        return tuple(found[seed] for seed in cell.seeds)

    def run_seconds(self, structure: LayerSpec, rung: int | None) -> float | None:
        """Seconds of a run at the best width of a structure's rung, as its steps were timed; None if they were not."""
        level = next((level for level in self.levels.get(structure, ()) if level.rung == rung), None)
        step_s = None if level is None else self.step_seconds.get((structure, level.best.width))
        if level is None or step_s is None:
            return None
        return step_s * fmean(run.steps for run in self.runs_of(structure, level.best))

    @cached_property
    def _finished(self) -> dict[tuple[LayerSpec, int, int, str], dict[int, TrialResult]]:
        """Finished runs by place and stage, then by seed; when a run is listed twice, the later one counts."""
        found: dict[tuple[LayerSpec, int, int, str], dict[int, TrialResult]] = {}
        for result in filter(is_finished, self.results):
            trial = result.trial
            found.setdefault((trial.structure, trial.rung, trial.width, trial.stage), {})[trial.seed] = result
        return found

    @cached_property
    def surfaces(self) -> dict[LayerSpec, Surface]:
        """Loss over width at every rung, as the ranking fitted it; for structures with a finished run."""
        return {structure: surface(levels) for structure, levels in self.levels.items() if levels}

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Limits of the answer, one sentence each: optima that were not found, and runs far from their other seeds."""
        reasons: dict[str, list[str]] = {}
        for entry in self.ranking.entries:
            if entry.width_reason is not None:
                reasons.setdefault(entry.width_reason, []).append(short_name(entry.structure))
        widths = [
            f"{', '.join(names)}: no optimum over widths on the last rung: {reason}"
            for reason, names in reasons.items()
        ]
        found = (*rate_warnings(self.rates), *trend_warnings(self.coordinates), *widths, *self._misfits())
        return (*found, *self.ranking_outlier_warnings, *self.outlier_warnings)

    @cached_property
    def outlier_warnings(self) -> tuple[str, ...]:
        """A sentence for each of `outliers`: which run it is, how far it lies, and how to go on."""
        seeds = len({result.trial.seed for result in self.confirmation})
        end = f"before you quote the confirmed gain, {_more_seeds(seeds)}"
        return tuple(f"{_outlier_words(item, 'confirmation')}: {end}" for item in self.outliers)

    @cached_property
    def ranking_outlier_warnings(self) -> tuple[str, ...]:
        """A sentence for each of `ranking_outliers`."""
        seeds = len({result.trial.seed for result in self.results})
        end = f"its structure's loss and gain may rest on it: {_more_seeds(seeds)}"
        return tuple(f"{_outlier_words(item, 'ranking')}; {end}" for item in self.ranking_outliers)

    def _misfits(self) -> list[str]:
        """A sentence for every structure whose losses over width do not follow the parabola that gives its loss."""
        levels: Mapping[Hashable, Sequence[Level]] = dict(self.levels.items())
        noise = noise_of(levels)
        found = []
        for structure, fitted in self.surfaces.items():
            last = fitted.minima[-1]
            if not last.follows_parabola(noise.of(structure)):
                found.append(
                    f"{short_name(structure)}: its mean losses over width lie further from the fitted parabola than "
                    f"seeds explain, so {loss_text(last.loss)} at the best width is uncertain; the lowest mean that was "
                    f"measured is {loss_text(last.best.mean)}, at width {last.best.width}: "
                    "train it at widths closer together"
                )
        return found

    def loss_interval(self, structure: LayerSpec, position: int) -> tuple[float, float] | None:
        """95% interval of the fitted loss at one of a structure's rungs; None without two seeds."""
        fitted = self.surfaces[structure]
        return self.interval_of(structure, fitted.minima[position].loss, fitted.covariance[position, position])

    def cell_interval(self, structure: LayerSpec, cell: Cell) -> tuple[float, float] | None:
        """95% interval of the mean loss of one width over seeds; None without two seeds anywhere."""
        return self.interval_of(structure, cell.mean, 1 / len(cell.runs))

    def interval_of(self, structure: LayerSpec, loss: float, units: float) -> tuple[float, float] | None:
        """95% interval of a loss whose logarithm has `units` times the variance of one run; None without two seeds.

        The noise of a run is that of the ranking at all rungs: pooled over the study unless structures differ.
        """
        entry, fitted = self.ranking.entry_of(structure), self.surfaces[structure]
        if entry is None or entry.loss is None or entry.loss_high is None:
            return None
        half = math.log(entry.loss_high / entry.loss) * math.sqrt(units / fitted.covariance[-1, -1])
        return loss * math.exp(-half), loss * math.exp(half)

    @cached_property
    def confirmed(self) -> dict[LayerSpec, Surface]:
        """Loss over width by runs of the confirmation alone, for structures with a finished one, best first."""
        runs = observations_of(self.confirmation)
        found = {
            item: confirmed_surface([run for run in runs if run.structure == item], self.levels[item])
            for item in self.structures
        }
        return {item: fitted for item, fitted in found.items() if fitted is not None}

    @cached_property
    def outliers(self) -> tuple[Outlier, ...]:
        """Runs of the confirmation far from the other seeds of their width.

        The noise is that of the ranking's runs with the same budget: on cheaper rungs losses scatter about twice as much.
        """
        levels = [fitted.minima[0].level for fitted in self.confirmed.values()]
        noise = noise_of(self._levels_at({level.rung for level in levels}))
        return tuple(outliers([cell for level in levels for cell in level.cells], noise))

    @cached_property
    def ranking_outliers(self) -> tuple[Outlier, ...]:
        """Runs of the ranking's last rung far from the other seeds of their width."""
        return tuple(outliers_within(self._levels_at({rung for rung, _ in self.budgets[-1:]})))

    def _levels_at(self, rungs: Collection[int]) -> Mapping[Hashable, Sequence[Level]]:
        return {item: [level for level in mine if level.rung in rungs] for item, mine in self.levels.items()}

    @cached_property
    def classes(self) -> dict[LayerSpec, Taxonomy]:
        """ω, ψ and ν of each structure, or of its experts, including those that a search tried."""
        looked_at = (result.trial.structure for result in self.explored)
        return {item: taxonomy_of(expert_of(item)) for item in dict.fromkeys((*self.structures, *looked_at))}

    @cached_property
    def exponent_effects(self) -> ExponentEffects | None:
        """The relation of ω, ψ, ν and bonds to the loss, at the rungs at which all structures were trained.

        Layers of experts are left out. None with too few structures.
        """
        return exponent_effects(
            list(self.exponents.values()), list(map(self.common_log_losses, self.exponents)), self.common_rungs
        )

    @cached_property
    def exponents(self) -> dict[Structure, dict[str, float]]:
        """ω, 1 − ψ, ν and the sum of the bonds' exponents, for structures with a finished run; no layers of experts."""
        return {item: _exponents(item, self.classes[item]) for item in self.surfaces if isinstance(item, Structure)}

    def common_log_losses(self, structure: LayerSpec) -> list[float]:
        """Log loss of a structure at its best width, at each of `common_rungs`."""
        return [m.log_loss for m in self.surfaces[structure].minima if m.level.rung in self.common_rungs]

    @cached_property
    def common_rungs(self) -> dict[int, float]:
        """Training FLOPs of a run by rung, for rungs at which every structure with a finished run was trained."""
        trained = [{minimum.level.rung for minimum in fitted.minima} for fitted in self.surfaces.values()]
        common = set.intersection(*trained) if trained else set()
        return {rung: budget for rung, budget in self.budgets if rung in common}

    @cached_property
    def budgets(self) -> tuple[tuple[int, float], ...]:
        """(rung, training FLOPs per run) of every rung with a finished run, cheapest first."""
        return tuple(sorted({(level.rung, level.budget_flops) for levels in self.levels.values() for level in levels}))

    @cached_property
    def yardstick(self) -> RankingEntry | None:
        return self.ranking.entry_of(self.ranking.yardstick)

    @cached_property
    def common_rung(self) -> tuple[int, float] | None:
        """The highest rung at which every structure with a finished run was trained.

        Losses of all structures may be compared there, and at no higher one.
        """
        ranked = [{(level.rung, level.budget_flops) for level in levels} for levels in self.levels.values() if levels]
        return max(set.intersection(*ranked), default=None) if ranked else None

    @cached_property
    def common_losses(self) -> dict[LayerSpec, float]:
        """Loss of the best width of each structure at `common_rung`."""
        return {
            structure: level.best.mean
            for structure, levels in self.levels.items()
            for level in levels
            if (level.rung, level.budget_flops) == self.common_rung
        }


def _outlier_words(item: Outlier, stage: str) -> str:
    run, share = item.run, item.run.loss / item.others - 1
    assert isinstance(run.structure, LayerSpec)
    return (
        f"{short_name(run.structure)}, width {run.width}, seed {run.seed}: in the {stage} this run ends at a loss of "
        f"{loss_text(run.loss)}, {percent_text(abs(share)).lstrip('+')} {'above' if share > 0 else 'below'} its other seeds "
        f"({abs(item.deviations):.1f} standard deviations of a run)"
    )


def _more_seeds(seeds: int) -> str:
    return f"run the study again with --seeds {2 * seeds}, which keeps the finished runs"


def _exponents(structure: Structure, known: Taxonomy) -> dict[str, float]:
    bond = sum(extent.exponent for carriers, extent in structure.indices if not set(carriers) & {"X", "Y"})
    return {"ω": float(known.omega), "1 − ψ": float(1 - known.psi), "ν": float(known.nu), "bond": float(bond)}


def relative_difference(entry: RankingEntry) -> tuple[float, float | None, float | None] | None:
    """Difference to the yardstick as a share of its loss, with the interval that holds for all candidates together."""
    if entry.difference is None:
        return None
    return entry.difference, entry.difference_low_adjusted, entry.difference_high_adjusted
