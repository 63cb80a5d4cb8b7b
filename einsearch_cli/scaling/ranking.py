"""The ranking of structures by loss at equal compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling.curves import Cell, Level, finished_loss, levels_of
from einsearch_cli.scaling.gain import ComputeGain, compute_gain
from einsearch_cli.scaling.intervals import CONFIDENCE, t_interval
from einsearch_cli.structures import LayerSpec, layer_family, parse_layer
from einsearch_cli.training.proxy.trial import TrialResult

Verdict = Literal["yardstick", "better", "worse", "not separated", "not compared", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingEntry:
    """One structure in the ranking; plain values only, None where something is not known."""

    structure: LayerSpec
    family: str
    rank: int
    """1 is best; structures with exactly equal results share a rank."""
    loss: float | None
    """Mean validation loss over seeds at the best width of the highest rung that has a
    finished run; None when no run finished."""
    ci_low: float | None
    ci_high: float | None
    """95% Student-t interval over seeds for `loss`; None with one seed."""
    rung: int | None
    """The rung `loss` belongs to, from 0."""
    budget_flops: float | None
    """Training FLOPs every run of that rung was given; embeddings and head not counted."""
    width: int | None
    """The best width."""
    params: int | None
    """Parameters of the network at the best width."""
    seeds: int
    """Seeds behind `loss`."""
    runs_finished: int
    """Runs of this structure that finished, all rungs and widths together."""
    runs_failed: int
    """Runs of this structure that diverged or crashed."""
    verdict: Verdict
    """'better' or 'worse' than the yardstick: the interval of `difference` excludes 0."""
    difference: float | None
    """Mean over common seeds of (loss − yardstick's loss) at the same rung, each at its best width."""
    difference_low: float | None
    difference_high: float | None
    """95% Student-t interval for `difference`, paired by seed."""
    compute_gain: float | None
    """Yardstick's compute / this structure's compute at `compute_gain_loss`."""
    compute_gain_low: float | None
    compute_gain_high: float | None
    """95% bootstrap interval over seeds."""
    compute_gain_loss: float | None
    """The loss at which compute is compared: the lowest that both reach."""
    compute_gain_at_least: float | None
    """Measured lower bound, when there is no common loss."""
    compute_gain_at_most: float | None
    """Measured upper bound, when there is no common loss."""
    compute_gain_reason: str | None
    """Why the gain or its interval is missing."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; the structure is written in its text notation."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"structure": str(self.structure)}

    @classmethod
    def from_json(cls, data: object) -> RankingEntry:
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
            if name not in _TEXT and not _is_number_or_none(value):
                raise SpecError(f"{name} must be a number or null, found {value!r}", remedy=_REWRITE)
        return cls(**values | {"structure": parse_layer(str(data["structure"]))})


_REWRITE = "write the file again with `einsearch rank`"
_TEXT = frozenset({"structure", "family", "verdict", "compute_gain_reason"})


def _is_number_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class Ranking:
    """All structures of a study, best first."""

    yardstick: LayerSpec
    entries: tuple[RankingEntry, ...]
    confidence: float = CONFIDENCE
    """Level of all intervals."""

    def entry_of(self, structure: LayerSpec) -> RankingEntry | None:
        """The entry of one structure, or None when it is not ranked."""
        return next((entry for entry in self.entries if entry.structure == structure), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, read back to an equal object by `from_json`."""
        return {
            "yardstick": str(self.yardstick),
            "confidence": self.confidence,
            "entries": [entry.to_json() for entry in self.entries],
        }

    @classmethod
    def from_json(cls, data: object) -> Ranking:
        """Read back what `to_json` wrote.

        Raises:
            SpecError: the object does not have that shape.
        """
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
            raise SpecError("a ranking must be an object with a list 'entries'", remedy=_REWRITE)
        yardstick, confidence = data.get("yardstick"), data.get("confidence", CONFIDENCE)
        if not isinstance(yardstick, str) or not _is_number_or_none(confidence) or confidence is None:
            raise SpecError("a ranking must name its 'yardstick' and 'confidence'", remedy=_REWRITE)
        entries = tuple(RankingEntry.from_json(item) for item in data["entries"])
        return cls(parse_layer(yardstick), entries, confidence)


def rank_candidates(results: Sequence[TrialResult], yardstick: LayerSpec) -> Ranking:
    """Rank every structure of `results` by loss at equal training compute.

    Structures that reached a higher rung come before those stopped earlier, then the
    lower loss first; structures without a finished run come last, with loss None. The
    yardstick takes part like any other and is listed even when it has no run at all.
    Each verdict stands on its own 95% interval: among many structures that equal the
    yardstick, about one in forty is called better, and one in forty worse, by chance.

    >>> rank_candidates([], parse_layer("dense")).entries[0].verdict
    'failed'
    """
    structures = dict.fromkeys([yardstick, *(result.trial.structure for result in results)])
    runs: dict[LayerSpec, list[TrialResult]] = {structure: [] for structure in structures}
    for result in results:
        runs[result.trial.structure].append(result)
    reference = levels_of(runs[yardstick], yardstick)
    drafts = [_entry(structure, runs[structure], reference, yardstick) for structure in structures]
    drafts.sort(key=lambda entry: (*_merit(entry), str(entry.structure)))
    return Ranking(yardstick, tuple(_numbered(drafts)))


def _merit(entry: RankingEntry) -> tuple[bool, int, float]:
    """Sorts the better structure first; equal merit is a tie."""
    if entry.loss is None or entry.rung is None:
        return True, 0, 0.0
    return False, -entry.rung, entry.loss


def _numbered(entries: Iterable[RankingEntry]) -> Iterable[RankingEntry]:
    previous: RankingEntry | None = None
    for position, entry in enumerate(entries, start=1):
        tied = previous is not None and _merit(previous) == _merit(entry)
        previous = _with_rank(entry, previous.rank if previous is not None and tied else position)
        yield previous


def _with_rank(entry: RankingEntry, rank: int) -> RankingEntry:
    return RankingEntry(**{field.name: getattr(entry, field.name) for field in fields(entry)} | {"rank": rank})


def _entry(
    structure: LayerSpec, runs: Sequence[TrialResult], reference: Sequence[Level], yardstick: LayerSpec
) -> RankingEntry:
    levels = levels_of(runs, structure)
    best = levels[-1].best if levels else None
    interval = t_interval([loss for _, loss in best.losses]) if best else None
    is_yardstick = structure == yardstick
    rivals = () if is_yardstick or best is None else reference
    rival = next((level.best for level in rivals if best and level.rung == best.rung), None)
    difference, difference_interval = _paired_difference(best, rival)
    gain = ComputeGain(1.0, 1.0, 1.0) if is_yardstick and levels else compute_gain(levels, reference)
    finished = sum(finished_loss(run) is not None for run in runs)
    return RankingEntry(
        structure=structure,
        family=layer_family(structure),
        rank=0,
        loss=best.mean if best else None,
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        rung=best.rung if best else None,
        budget_flops=best.budget_flops if best else None,
        width=best.width if best else None,
        params=best.params if best else None,
        seeds=len(best.losses) if best else 0,
        runs_finished=finished,
        runs_failed=len(runs) - finished,
        verdict=_verdict(best, is_yardstick, difference_interval),
        difference=difference,
        difference_low=difference_interval[0] if difference_interval else None,
        difference_high=difference_interval[1] if difference_interval else None,
        compute_gain=gain.value,
        compute_gain_low=gain.low,
        compute_gain_high=gain.high,
        compute_gain_loss=gain.at_loss,
        compute_gain_at_least=gain.at_least,
        compute_gain_at_most=gain.at_most,
        compute_gain_reason=gain.reason,
    )


def _paired_difference(cell: Cell | None, rival: Cell | None) -> tuple[float | None, tuple[float, float] | None]:
    """Mean and interval of the loss differences over the seeds that both cells have.

    Pairing by seed takes out what the two share under one seed (data and its order).
    """
    if cell is None or rival is None:
        return None, None
    theirs = dict(rival.losses)
    differences = [loss - theirs[seed] for seed, loss in cell.losses if seed in theirs]
    if not differences:
        return None, None
    return math.fsum(differences) / len(differences), t_interval(differences)


def _verdict(best: Cell | None, is_yardstick: bool, interval: tuple[float, float] | None) -> Verdict:
    if best is None:
        return "failed"
    if is_yardstick:
        return "yardstick"
    if interval is None:
        return "not compared"
    low, high = interval
    if high < 0:
        return "better"
    return "worse" if low > 0 else "not separated"
