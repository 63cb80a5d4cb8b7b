"""The ranking of structures by loss at equal compute, as values and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final, Self, get_args

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling.comparisons import (
    INCLUDES_ZERO,
    ONE_SEED,
    Price,
    Verdict,
)
from einsearch_cli.scaling.law import Crossover, Law, Prediction
from einsearch_cli.scaling.noise import CONFIDENCE
from einsearch_cli.scaling.parabola import Edge
from einsearch_cli.scaling.trend import Trend
from einsearch_cli.showing import Tabular
from einsearch_cli.structures import LayerSpec, parse_layer
from einsearch_cli.structures.record import Record

FORMAT: Final = 3
"""Format of a stored ranking; 2: losses are compared at fitted best widths, 3: a study has stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingEntry(Record):
    """One structure in the ranking, as plain values; unknown ones are None."""

    structure: LayerSpec
    family: str
    rank: int
    """Place of the structure, 1 is best; structures with exactly equal results share a rank."""
    loss: float | None
    """Validation loss at the best width of the highest rung with a finished run; None if no run finished.

    It is the minimum of a parabola in log width through geometric means over seeds.
    """
    loss_low: float | None
    loss_high: float | None
    """95% Student-t interval for `loss`, with the error of the fit; None if no width has two seeds."""
    rung: int | None
    """Number of the rung to which `loss` belongs, from 0."""
    budget_flops: float | None
    """Training FLOPs allotted to every run of that rung, without embeddings and head."""
    best_width: float | None
    """The width at the minimum, as a real number; the best trained width if `width_reason` is given."""
    best_width_low: float | None
    best_width_high: float | None
    """95% interval for `best_width`, from the fit; None without a parabola."""
    width: int | None
    """The trained width with the lowest mean loss."""
    width_edge: Edge | None
    """'low' or 'high' if `width` is the narrowest or widest tried at that rung: a better one may lie beyond."""
    width_reason: str | None
    """Why `loss` is only an upper bound of the loss at the best width; None if the minimum was found."""
    curvature: float | None
    """Second-order coefficient of log loss in log width, averaged over rungs."""
    params: int | None
    """Parameters of the network at `width`."""
    seeds: int
    """Seeds per width behind `loss`."""
    runs_finished: int
    """Finished runs of this structure at all rungs, widths and stages."""
    runs_failed: int
    """Runs of this structure that diverged or crashed, or have a loss that is not a positive number."""
    verdict: Verdict
    """The verdict on the difference to the yardstick: 'better', 'worse', 'cannot tell' or 'failed'.

    'better' and 'worse' need an adjusted interval of `difference` that excludes 0, and best widths that were found.
    'failed' means that no run finished.
    """
    verdict_reason: str | None
    """Why the verdict is 'cannot tell'."""
    difference: float | None
    """Loss / yardstick's loss − 1 at the rung `rung`, each at its best width."""
    difference_low: float | None
    difference_high: float | None
    """95% interval for `difference` of this structure alone."""
    difference_low_adjusted: float | None
    difference_high_adjusted: float | None
    """95% interval for `difference` at the level at which the candidate was judged among all.

    The level is that of the step-down Dunnett test. The interval excludes 0 exactly if the verdict holds for all
    candidates together.
    """
    p_value: float | None
    """Probability that a structure equal to the yardstick differs by that much."""
    p_adjusted: float | None
    """Probability that the most different of all candidates does, if all are equal to the yardstick."""
    compute_gain: float | None
    """The yardstick's training FLOPs divided by this structure's at `compute_gain_loss`, without embeddings and head.
    """
    compute_gain_low: float | None
    compute_gain_high: float | None
    """95% interval for `compute_gain` of this structure alone; an end is None if the data do not bound it."""
    compute_gain_low_adjusted: float | None
    compute_gain_high_adjusted: float | None
    """95% interval for `compute_gain`, adjusted for all candidates like that of `difference`."""
    compute_gain_loss: float | None
    """The loss at which compute is compared: the lowest that both reach."""
    compute_gain_at_least: float | None
    """Measured lower bound of the gain, if there is no common loss."""
    compute_gain_at_most: float | None
    """Measured upper bound of the gain, if there is no common loss."""
    compute_gain_reason: str | None
    """Why the gain or its interval is missing, or what limits it."""
    total_gain: float | None
    total_gain_low: float | None
    total_gain_high: float | None
    """Plain 95% interval of the compute gain in FLOPs with embeddings and head."""
    seconds_gain: float | None
    seconds_gain_low: float | None
    seconds_gain_high: float | None
    """Plain 95% interval of the gain in seconds; None if steps were not timed in a race.

    The interval includes the errors of losses and of best widths, on which the seconds per FLOP depend, but no error of
    the times.
    """
    reversed_in: tuple[Price, ...]
    """Prices in which the gain lies on the other side of 1 than in FLOPs, if both intervals exclude 1."""
    trend: Trend | None
    """The gain at every rung and its change with compute; None for the yardstick and without finished runs."""
    law: Law | None
    """The law L = floor + (C / scale)^(−exponent), from four rungs on."""
    law_reason: str | None
    """Why there is no law, and what would help."""
    crossover: Crossover | None
    """The compute at which its law meets the yardstick's; None if they do not meet within three decades of the runs."""
    prediction: Prediction | None
    """Predicted loss of the structure at the requested compute; None if none was requested."""
    confirmed_gain: float | None
    confirmed_gain_low: float | None
    confirmed_gain_high: float | None
    """Plain 95% interval of the compute gain in the confirmation; None without a confirmation.

    The confirmation uses new seeds, which had no part in choosing the structure, so its gain is the one to quote.
    """
    confirmed_difference: float | None
    confirmed_difference_low: float | None
    confirmed_difference_high: float | None
    """95% interval of `difference` in the confirmation, for all confirmed structures together."""
    confirmed_seeds: int
    """Seeds of the confirmation; 0 without one."""
    confirmed_verdict: Verdict | None
    """The verdict from the confirmation alone."""

    @property
    def quoted_gain(self) -> tuple[float, float | None, float | None] | None:
        """The gain that may be quoted, with its interval: that of the confirmation if there was one."""
        if self.confirmed_gain is not None:
            return self.confirmed_gain, self.confirmed_gain_low, self.confirmed_gain_high
        if self.compute_gain is None or self.confirmed_seeds:
            return None
        return self.compute_gain, self.compute_gain_low, self.compute_gain_high

    def gain_in(self, price: Price) -> float | None:
        """The gain in one of the three prices."""
        return {"flops": self.compute_gain, "total": self.total_gain, "seconds": self.seconds_gain}[price]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the structure in its text notation."""
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
class Ranking(Tabular):
    """All structures of a study, best first."""

    yardstick: LayerSpec
    entries: tuple[RankingEntry, ...]
    confidence: float = CONFIDENCE
    """Confidence level of all intervals."""
    noise: float | None = None
    """Standard deviation of the log loss of one run between seeds, over the whole study; None with one seed."""
    noise_degrees: float | None = None
    """Degrees of freedom of `noise`."""
    own_noise: bool = False
    """Whether every structure was judged by its own noise, because a test found them different (p below 1%)."""
    paired: bool = False
    """Whether structures were compared seed by seed, because a test found that seeds move all losses together."""

    def entry_of(self, structure: LayerSpec) -> RankingEntry | None:
        """The entry of one structure, or None if it is not ranked."""
        return next((entry for entry in self.entries if entry.structure == structure), None)

    def ordered(self, by: Price) -> tuple[RankingEntry, ...]:
        """The entries by their gain in one price, the highest first; in FLOPs this is the ranking itself.

        If a gain is not known in that price, a structure that is better than the yardstick comes first, and one that is
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

        Left out are decided structures, those whose best width was not found (more widths are needed, not seeds), and
        those whose adjusted interval lies within ± `resolution` of the yardstick's loss, which are practically equal.
        """
        open_ends = []
        for entry in self.entries:
            low, high = entry.difference_low_adjusted, entry.difference_high_adjusted
            equal = low is not None and high is not None and -resolution < low and high < resolution
            if entry.verdict == "cannot tell" and entry.verdict_reason in (INCLUDES_ZERO, ONE_SEED) and not equal:
                open_ends.append(entry.structure)
        return tuple(open_ends)

    def records(self) -> list[dict[str, Any]]:
        """One row per structure, best first: the fields of `RankingEntry` that are plain values."""
        return [
            {name: value for name, value in entry.to_json().items() if name not in _NESTED} for entry in self.entries
        ]

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
