"""The ranking of structures by loss at equal compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Self, get_args

import numpy as np

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling.comparisons import (
    INCLUDES_ZERO,
    ONE_SEED,
    Comparison,
    Estimate,
    Gain,
    Price,
    Study,
    Verdict,
    compare,
)
from einsearch_cli.scaling.law import Crossover, Law, Prediction
from einsearch_cli.scaling.noise import CONFIDENCE, t_quantile
from einsearch_cli.scaling.observations import Observation
from einsearch_cli.scaling.outlook import Outlook
from einsearch_cli.scaling.parabola import Edge
from einsearch_cli.scaling.trend import Trend, scaled
from einsearch_cli.structures import LayerSpec, layer_family, parse_layer
from einsearch_cli.structures.record import Record
from einsearch_cli.training.proxy.trial import TrialResult

FORMAT: Final = 3
"""Of a stored ranking: 3 since a study has stages; 2 since losses are compared at fitted best widths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingEntry(Record):
    """One structure in the ranking; plain values only, None where something is not known."""

    structure: LayerSpec
    family: str
    rank: int
    """1 is best; structures with exactly equal results share a rank."""
    loss: float | None
    """Validation loss at the best width of the highest rung that has a finished run: the minimum of a parabola in log
    width through geometric means over seeds; None when no run finished."""
    loss_low: float | None
    loss_high: float | None
    """95% Student-t interval for `loss`, with the error of the fit; None where no width of the study has two seeds."""
    rung: int | None
    """The rung `loss` belongs to, from 0."""
    budget_flops: float | None
    """Training FLOPs every run of that rung was given; embeddings and head not counted."""
    best_width: float | None
    """The width at the minimum, as a real number; the best width that was trained where `width_reason` is given."""
    best_width_low: float | None
    best_width_high: float | None
    """95% interval for `best_width`, from the fit; None where no parabola could be drawn."""
    width: int | None
    """The trained width with the lowest mean loss."""
    width_edge: Edge | None
    """'low' or 'high' where `width` is the narrowest or widest tried at that rung: a better one may lie beyond."""
    width_reason: str | None
    """Why `loss` is only an upper bound of the loss at the best width; None where the minimum was found."""
    curvature: float | None
    """Second-order coefficient of log loss in log width, the mean over rungs."""
    params: int | None
    """Parameters of the network at `width`."""
    seeds: int
    """Seeds a width behind `loss`."""
    runs_finished: int
    """Runs of this structure that finished, all rungs, widths and stages together."""
    runs_failed: int
    """Runs of this structure that diverged or crashed, or whose loss is not a positive number."""
    verdict: Verdict
    """'better' or 'worse' than the yardstick: the adjusted interval of `difference` excludes 0 and the best widths
    that this rests on were found. Else 'cannot tell'; 'failed' without a finished run."""
    verdict_reason: str | None
    """Why the verdict is 'cannot tell'."""
    difference: float | None
    """Loss / yardstick's loss − 1 at the rung `rung`, each at its best width."""
    difference_low: float | None
    difference_high: float | None
    """95% interval for `difference` of this structure alone."""
    difference_low_adjusted: float | None
    difference_high_adjusted: float | None
    """95% interval for `difference` at the level at which the candidate was judged among all (step-down Dunnett): it
    leaves out 0 exactly where the verdict holds for all candidates together."""
    p_value: float | None
    """How often a structure equal to the yardstick would differ that much."""
    p_adjusted: float | None
    """How often the most different of all candidates would, if all were equal to the yardstick."""
    compute_gain: float | None
    """Yardstick's training FLOPs / this structure's for the loss `compute_gain_loss`; embeddings and head left out."""
    compute_gain_low: float | None
    compute_gain_high: float | None
    """95% interval for `compute_gain` of this structure alone; an end is None where the data do not bound it."""
    compute_gain_low_adjusted: float | None
    compute_gain_high_adjusted: float | None
    """The same for `compute_gain`."""
    compute_gain_loss: float | None
    """The loss at which compute is compared: the lowest that both reach."""
    compute_gain_at_least: float | None
    """Measured lower bound, when there is no common loss."""
    compute_gain_at_most: float | None
    """Measured upper bound, when there is no common loss."""
    compute_gain_reason: str | None
    """Why the gain or its interval is missing, or what it suffers from."""
    total_gain: float | None
    total_gain_low: float | None
    total_gain_high: float | None
    """The compute gain in FLOPs that include embeddings and head, with its plain 95% interval."""
    seconds_gain: float | None
    seconds_gain_low: float | None
    seconds_gain_high: float | None
    """The compute gain in seconds, with its plain 95% interval: None where steps were not timed in a race. The interval
    carries the errors of losses and of best widths, on which the seconds a FLOP hang, and no error of the times."""
    reversed_in: tuple[Price, ...]
    """Prices in which the gain lies on the other side of 1 than in FLOPs, and both intervals leave out 1."""
    trend: Trend | None
    """The gain at every rung and how it changes with compute; None for the yardstick and without finished runs."""
    law: Law | None
    """L = floor + (C / scale)^(−exponent), from four rungs on."""
    law_reason: str | None
    """Why there is no law, and what would settle it."""
    crossover: Crossover | None
    """The compute at which its law meets the yardstick's; None where they do not meet within three decades of the runs."""
    prediction: Prediction | None
    """Its loss at the compute that was asked for; None where none was."""
    confirmed_gain: float | None
    confirmed_gain_low: float | None
    confirmed_gain_high: float | None
    """The compute gain from runs with new seeds, which had no part in choosing the structure, with its plain 95%
    interval: the one to quote. None where there was no confirmation."""
    confirmed_difference: float | None
    confirmed_difference_low: float | None
    confirmed_difference_high: float | None
    """`difference` from the runs of the confirmation, with the 95% interval for all structures confirmed together."""
    confirmed_seeds: int
    """Seeds of the confirmation; 0 without one."""
    confirmed_verdict: Verdict | None
    """The verdict from the confirmation alone."""

    @property
    def quoted_gain(self) -> tuple[float, float | None, float | None] | None:
        """The gain that may be quoted, with its interval: that of the confirmation where there was one."""
        if self.confirmed_gain is not None:
            return self.confirmed_gain, self.confirmed_gain_low, self.confirmed_gain_high
        if self.compute_gain is None or self.confirmed_seeds:
            return None
        return self.compute_gain, self.compute_gain_low, self.compute_gain_high

    def gain_in(self, price: Price) -> float | None:
        """The gain in one of the three prices."""
        return {"flops": self.compute_gain, "total": self.total_gain, "seconds": self.seconds_gain}[price]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; the structure is written in its text notation."""
        return Record.to_json(self) | {"structure": str(self.structure)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read back what `to_json` wrote; other keys are ignored.

        Raises:
            SpecError: not an object, or a key is missing or of the wrong kind.
        """
        if not isinstance(data, dict):
            raise SpecError(f"a ranking entry must be an object, found {type(data).__name__}", remedy=_REWRITE)
        missing = [field.name for field in fields(cls) if field.name not in data]
        if missing:
            raise SpecError(f"a ranking entry lacks {', '.join(missing)}", remedy=_REWRITE)
        if data["verdict"] not in get_args(Verdict):
            raise SpecError(f"unknown verdict {data['verdict']!r}", remedy=_REWRITE)
        values = {field.name: data[field.name] for field in fields(cls)}
        for name, value in values.items():
            if name in _TEXT:
                if not (value is None or isinstance(value, str)):
                    raise SpecError(f"{name} must be text or null, found {value!r}", remedy=_REWRITE)
            elif name not in _NESTED and not _is_number_or_none(value):
                raise SpecError(f"{name} must be a number or null, found {value!r}", remedy=_REWRITE)
        turned = values["reversed_in"]
        if not isinstance(turned, list) or not set(turned) <= set(get_args(Price)):
            raise SpecError(f"reversed_in must list prices, found {turned!r}", remedy=_REWRITE)
        read = {
            "structure": parse_layer(str(data["structure"])),
            "reversed_in": tuple(turned),
            **{name: _nested(name, kind, values[name]) for name, kind in _RECORDS.items()},
        }
        return cls(**values | read)


_REWRITE = "make the ranking again from the stored runs, with `einsearch rank`"
_TEXT = frozenset(
    {"structure", "family", "verdict", "verdict_reason", "compute_gain_reason", "law_reason"}
    | {"width_edge", "width_reason", "confirmed_verdict"}
)
_RECORDS: Final[dict[str, type[Record]]] = {
    "trend": Trend,
    "law": Law,
    "crossover": Crossover,
    "prediction": Prediction,
}
_NESTED = frozenset({"reversed_in", *_RECORDS})


def _is_number_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _nested(name: str, kind: type[Record], data: Any) -> Record | None:
    try:
        return None if data is None else kind.from_json(data)
    except (TypeError, AttributeError) as error:
        raise SpecError(f"a {name} of another shape: {error}", remedy=_REWRITE) from error


@dataclass(frozen=True, slots=True)
class Ranking:
    """All structures of a study, best first."""

    yardstick: LayerSpec
    entries: tuple[RankingEntry, ...]
    confidence: float = CONFIDENCE
    """Level of all intervals."""
    noise: float | None = None
    """Standard deviation of the log loss of one run between seeds, over all cells of the study; None with one seed."""
    noise_degrees: float | None = None
    """Degrees of freedom of `noise`."""
    own_noise: bool = False
    """Whether every structure was judged by its own noise, as a test found them different (p below 1%)."""
    paired: bool = False
    """Whether structures were compared seed by seed, as a test found that seeds move all losses together."""

    def entry_of(self, structure: LayerSpec) -> RankingEntry | None:
        """The entry of one structure, or None when it is not ranked."""
        return next((entry for entry in self.entries if entry.structure == structure), None)

    def ordered(self, by: Price) -> tuple[RankingEntry, ...]:
        """The entries by their gain in one price, the highest first; by FLOPs that is the ranking itself.

        Where a gain is not known in that price, a structure that is better than the yardstick comes first, one that is
        worse last.
        """
        if by == "flops":
            return self.entries
        unknown = {"better": math.inf, "worse": 0.0, "failed": -1.0}

        def merit(entry: RankingEntry) -> float:
            gain = entry.gain_in(by)
            return unknown.get(entry.verdict, 0.5) if gain is None else gain

        return tuple(sorted(self.entries, key=merit, reverse=True))

    def undecided(self, resolution: float = 0.01) -> tuple[LayerSpec, ...]:
        """The structures whose verdict more seeds may settle, best first.

        Left out are those that are decided, those whose best width was not found (more widths are needed, not seeds),
        and those whose adjusted interval lies within ± `resolution` of the yardstick's loss: they are as good as equal.
        """
        open_ends = []
        for entry in self.entries:
            low, high = entry.difference_low_adjusted, entry.difference_high_adjusted
            equal = low is not None and high is not None and -resolution < low and high < resolution
            if entry.verdict == "cannot tell" and entry.verdict_reason in (INCLUDES_ZERO, ONE_SEED) and not equal:
                open_ends.append(entry.structure)
        return tuple(open_ends)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, read back to an equal object by `from_json`."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        entries = [entry.to_json() for entry in self.entries]
        return {"format": FORMAT, **plain, "yardstick": str(self.yardstick), "entries": entries}

    @classmethod
    def from_json(cls, data: object) -> Ranking:
        """Read back what `to_json` wrote.

        Raises:
            SpecError: the object does not have that shape.
        """
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
            raise SpecError("a ranking must be an object with a list 'entries'", remedy=_REWRITE)
        if data.get("format") != FORMAT:
            raise SpecError(f"a ranking of format {data.get('format', 1)}: format {FORMAT} is read", remedy=_REWRITE)
        plain: dict[str, Any] = {field.name: data.get(field.name) for field in fields(cls)}
        if not isinstance(plain["yardstick"], str) or plain["confidence"] is None:
            raise SpecError("a ranking must name its 'yardstick' and 'confidence'", remedy=_REWRITE)
        for name in ("confidence", "noise", "noise_degrees"):
            if not _is_number_or_none(plain[name]):
                raise SpecError(f"{name} must be a number, found {plain[name]!r}", remedy=_REWRITE)
        read = {
            "yardstick": parse_layer(plain["yardstick"]),
            "entries": tuple(RankingEntry.from_json(item) for item in data["entries"]),
        }
        return cls(**plain | read)


def is_finished(result: TrialResult) -> bool:
    """Whether a run has a loss that can be ranked: finite and above 0."""
    return result.status == "ok" and result.loss is not None and math.isfinite(result.loss) and result.loss > 0


def observations_of(
    results: Iterable[TrialResult], step_seconds: Mapping[tuple[LayerSpec, int], float] | None = None
) -> list[Observation]:
    """The finished runs as plain numbers.

    `step_seconds` is the time of a training step by (structure, width), from a race of all of them on an idle machine.
    """
    found = []
    for result in results:
        trial = result.trial
        if is_finished(result) and result.loss is not None:
            step_s = step_seconds.get((trial.structure, trial.width)) if step_seconds else None
            found.append(
                Observation(
                    structure=trial.structure,
                    rung=trial.rung,
                    width=trial.width,
                    seed=trial.seed,
                    loss=result.loss,
                    budget=trial.budget_flops,
                    compute=result.train_flops,
                    total=result.total_flops,
                    seconds=None if step_s is None else step_s * result.steps,
                    tokens=result.tokens,
                    params=result.params,
                    stage=trial.stage,
                )
            )
    return found


def rank_candidates(
    results: Sequence[TrialResult],
    yardstick: LayerSpec,
    *,
    step_seconds: Mapping[tuple[LayerSpec, int], float] | None = None,
    looks: Sequence[float] = (),
    at: float | None = None,
    laws: bool = True,
) -> Ranking:
    """Rank every structure of `results` by loss at equal training compute.

    Structures that reached a higher rung come before those stopped earlier, then the
    lower loss first; structures without a finished run come last, with loss None. The
    yardstick takes part like any other and is listed even when it has no run at all.
    Verdicts hold for all candidates together: in 95% of studies of structures equal to the
    yardstick none is called better or worse. `looks`, `at` and `laws`: see `compare`.

    >>> rank_candidates([], parse_layer("dense")).entries[0].verdict
    'failed'
    """
    runs: dict[LayerSpec, list[TrialResult]] = {yardstick: []}
    for result in results:
        runs.setdefault(result.trial.structure, []).append(result)
    study = compare(observations_of(results, step_seconds), yardstick, looks, at, laws)
    drafts = [_entry(structure, study, mine) for structure, mine in runs.items()]
    drafts.sort(key=lambda entry: (*_merit(entry), str(entry.structure)))
    pooled = study.noise.pooled
    return Ranking(
        yardstick,
        tuple(_numbered(drafts)),
        noise=None if pooled is None else math.sqrt(pooled.value),
        noise_degrees=None if pooled is None else pooled.degrees,
        own_noise=bool(study.noise.own),
        paired=study.noise.seed is not None,
    )


def _merit(entry: RankingEntry) -> tuple[bool, int, float]:
    """Sorts the better structure first; equal merit is a tie."""
    if entry.loss is None or entry.rung is None:
        return True, 0, 0.0
    return False, -entry.rung, entry.loss


def _numbered(entries: Iterable[RankingEntry]) -> Iterable[RankingEntry]:
    previous: RankingEntry | None = None
    for position, entry in enumerate(entries, start=1):
        tied = previous is not None and _merit(previous) == _merit(entry)
        previous = replace(entry, rank=previous.rank if previous is not None and tied else position)
        yield previous


def _entry(structure: LayerSpec, study: Study, runs: Sequence[TrialResult]) -> RankingEntry:
    item = study.comparisons.get(structure, Comparison(structure))
    gains = {price: item.gains.get(price, Gain(reason="no finished run")) for price in get_args(Price)}
    gain, again = gains["flops"], item.confirmed
    outlook = study.outlooks.get(structure, Outlook(reason="no law was fitted"))
    finished = sum(map(is_finished, runs))
    return RankingEntry(
        structure=structure,
        family=layer_family(structure),
        rank=0,
        **_place(item, study),
        runs_finished=finished,
        runs_failed=len(runs) - finished,
        verdict=item.verdict,
        verdict_reason=item.reason,
        **_spread("difference", item.difference, adjusted=True),
        p_value=item.p_value,
        p_adjusted=item.p_adjusted,
        **_spread("compute_gain", gain.estimate, adjusted=True),
        compute_gain_loss=gain.at_loss,
        compute_gain_at_least=gain.at_least,
        compute_gain_at_most=gain.at_most,
        compute_gain_reason=gain.reason,
        **_spread("total_gain", gains["total"].estimate),
        **_spread("seconds_gain", gains["seconds"].estimate),
        reversed_in=tuple(price for price, other in gains.items() if _is_reversed(gain.estimate, other.estimate)),
        trend=item.trend,
        law=outlook.law,
        law_reason=outlook.reason,
        crossover=outlook.crossover,
        prediction=outlook.prediction,
        **_spread("confirmed_gain", again.gain.estimate if again else None),
        confirmed_difference=again.difference.value if again else None,
        confirmed_difference_low=again.difference.low_adjusted if again else None,
        confirmed_difference_high=again.difference.high_adjusted if again else None,
        confirmed_seeds=again.seeds if again else 0,
        confirmed_verdict=again.verdict if again else None,
    )


def _place(item: Comparison, study: Study) -> dict[str, Any]:
    """Loss, budget and best width at the highest rung."""
    names = "loss loss_low loss_high rung budget_flops best_width best_width_low best_width_high"
    names += " width width_edge width_reason curvature params"
    if item.surface is None:
        return dict.fromkeys(names.split()) | {"seeds": 0}
    minimum = item.surface.minima[-1]
    best, noise = minimum.best, study.noise.of(item.structure)
    last = np.zeros((1, len(item.surface.minima)))
    last[0, -1] = 1.0
    variance = study.noise.of_contrasts(item.surface.part(item.structure, last))
    half = width_half = None
    if noise is not None and variance is not None:
        half = t_quantile(float(variance[1][0])) * math.sqrt(variance[0][0])
        if minimum.width_error is not None:
            width_half = t_quantile(noise.degrees) * math.sqrt(noise.value) * minimum.width_error
    return {
        **_around("loss", minimum.log_loss, half),
        "rung": minimum.level.rung,
        "budget_flops": minimum.level.budget_flops,
        **_around("best_width", math.log(minimum.width), width_half),
        "width": best.width,
        "width_edge": minimum.edge,
        "width_reason": minimum.reason,
        "curvature": item.surface.curvature,
        "params": best.params,
        "seeds": len(best.runs),
    }


def _around(name: str, log_value: float, half: float | None) -> dict[str, float | None]:
    ends = (None, None) if half is None else (scaled(log_value, -half), scaled(log_value, half))
    return {name: math.exp(log_value), f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _spread(name: str, estimate: Estimate | None, adjusted: bool = False) -> dict[str, Any]:
    """The fields of an estimate."""
    values = asdict(estimate) if estimate is not None else {}
    plain = {name: values.get("value"), f"{name}_low": values.get("low"), f"{name}_high": values.get("high")}
    if not adjusted:
        return plain
    return plain | {f"{name}_{end}_adjusted": values.get(f"{end}_adjusted") for end in ("low", "high")}


def _is_reversed(flops: Estimate | None, other: Estimate | None) -> bool:
    ends = [end for item in (flops, other) if item is not None for end in (item.low, item.high)]
    if len(ends) < 4 or any(end is None for end in ends):
        return False
    low, high, other_low, other_high = (float(end) for end in ends if end is not None)
    return (low > 1 and other_high < 1) or (high < 1 and other_low > 1)
