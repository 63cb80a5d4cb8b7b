"""The outcome of a study: runs by their purpose, learning rates, controls, and the price of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from einsearch_cli.scaling.parabola import Edge, Vertex
from einsearch_cli.structures import LayerSpec, short_name
from einsearch_cli.structures.record import Record
from einsearch_cli.training.proxy.trial import TrialResult

MOST_SHIFT = 2.0
"""The factor of a best rate's shift between widths and budgets beyond which a warning is given."""

Tried = tuple[tuple[float, float | None], ...]
"""Pairs (rate in multiples of the base rate, loss), with None if the run had no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRate(Record):
    """The learning rate of one structure, and how certain it is."""

    base: float
    """The study's base rate; all others are multiples of it."""
    rate: float
    """The best rate on the cheapest rung, used on all rungs but the last."""
    width: int
    """The width at which the rate was found."""
    tried: Tried
    curvature: float | None
    """Curvature of log loss in log rate; a rate off by a factor of e loses half of it. None without a parabola."""
    edge: Edge | None
    """The end of the tried rates at which the best one lies; None if both sides are worse."""
    reason: str | None
    """Why `rate` may not be the best one; None if it is."""
    last_rate: float
    """The rate of the last rung."""
    last_width: int | None = None
    """The width at which the rate was checked; None before the check."""
    last_tried: Tried = ()
    shift: float | None = None
    """Best rate of the last rung divided by that of the first; 1 if muP carries it over exactly."""

    @classmethod
    def found(cls, base: float, rate: float, width: int, at: Vertex | None, tried: Tried) -> Self:
        """The rate found on the cheapest rung; `at` is None if every run diverged."""
        return cls(
            base=base,
            rate=rate,
            width=width,
            tried=tried,
            curvature=None if at is None else at.curvature,
            edge=None if at is None else at.edge,
            reason="no run has a loss" if at is None else at.reason,
            last_rate=rate,
        )

    def checked_at(self, width: int, at: Vertex, tried: Tried, moves: bool) -> Self:
        """A copy with the check on the last rung; the rate changes only if one of its neighbours was better."""
        shift = math.exp(at.at)
        rate = float(f"{self.rate * shift:.3g}") if moves else self.rate
        return replace(self, last_rate=rate, last_width=width, last_tried=tried, shift=shift)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last rung at the task's base width."""
        return self.base * self.last_rate

    @property
    def is_edge(self) -> bool:
        """Whether a better rate may lie beyond the tried ones."""
        return self.edge is not None

    def to_json(self) -> dict[str, Any]:
        """The fields and the learning rate as plain values."""
        return Record.to_json(self) | {"learning_rate": self.learning_rate}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending(Record):
    """The plan of a study, and how seeds were added where they matter."""

    planned_runs: int
    """The number of runs expected before the study."""
    planned_flops: float
    """Training FLOPs of the expected runs."""
    looks: tuple[int, ...]
    """Numbers of seeds per width at which verdicts may be examined; a single one if no seeds are added."""
    extended: tuple[int, ...] = ()
    """Numbers of candidates that got the seeds of the second look, of the third, and so on."""
    saved_runs: int = 0
    """Runs that were skipped because they could not change a verdict."""
    saved_flops: float = 0.0
    """Training FLOPs of the skipped runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration(Record):
    """The search for candidates before the ranking."""

    sampler: str
    """The sampler that proposed structures."""
    factors: int
    """Largest number of factors."""
    runs: int
    """Runs of the search, all on the cheapest rung."""
    pruned: int
    """Proposed points that failed the pruning criteria; none was trained."""
    repeated: int
    """Proposals of networks that had been trained before; none was trained again."""
    found: tuple[LayerSpec, ...]
    """Structures that went on to the ranking, best first."""
    rival: LayerSpec | None = None
    """The best given candidate, with which the best one found is compared; None if none has a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """The results of all stages of a study."""

    ranked: tuple[TrialResult, ...]
    """Runs of the ranking: every width that was tried at the structure's rate, with the ranking's seeds."""
    confirmation: tuple[TrialResult, ...] = ()
    """The best and the yardstick again, from seeds that had no part in any decision."""
    tuning: tuple[TrialResult, ...] = ()
    """Runs that only searched for a rate."""
    explored: tuple[TrialResult, ...] = ()
    """Runs that searched for candidates; none is in the ranking."""
    exploration: Exploration | None = None
    """The result of that search; None if the candidates were given."""
    unbalanced: tuple[TrialResult, ...] = ()
    """Runs with experts, repeated without the loss that balances their load."""
    rates: Mapping[LayerSpec, TunedRate]
    controls: Mapping[LayerSpec, tuple[LayerSpec, ...]]
    """Structures that the study added, each with the candidates that brought it."""
    spending: Spending

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """The results of all runs."""
        return (*self.ranked, *self.confirmation, *self.tuning, *self.unbalanced, *self.explored)


def rate_warnings(rates: Mapping[LayerSpec, TunedRate]) -> tuple[str, ...]:
    """Warnings about the learning rates, one sentence each."""
    found = []
    for structure, tuned in rates.items():
        name = short_name(structure)
        if tuned.is_edge:
            found.append(
                f"{name}: the best learning rate, {tuned.base * tuned.rate:.3g}, is the {_END[tuned.edge or 'low']} "
                "that was tried; a better one may lie beyond it"
            )
        if tuned.shift is not None and not 1 / MOST_SHIFT <= tuned.shift <= MOST_SHIFT:
            is_one = tuned.width == tuned.last_width
            cause = "longer training, or noise, moved it" if is_one else "muP does not carry it over here"
            found.append(
                f"{name}: the best learning rate moved by a factor of {tuned.shift:.2g} between width {tuned.width} on "
                f"the first rung and width {tuned.last_width} on the last: {cause}"
            )
    return tuple(found)


_END: Mapping[Edge, str] = {"low": "lowest", "high": "highest"}
