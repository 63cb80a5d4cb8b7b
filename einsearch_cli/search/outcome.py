"""What a study found: runs by what they are for, learning rates, controls, and the price of a step."""

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
"""A warning is given where the best rate moves by more than this factor between widths and budgets."""

Tried = tuple[tuple[float, float | None], ...]
"""(rate in multiples of the base rate, loss), None where the run had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRate(Record):
    """The learning rate of one structure, and how sure it is."""

    base: float
    """The study's base rate, which the others are multiples of."""
    rate: float
    """Best rate on the cheapest rung, used on all rungs but the last."""
    width: int
    """Width at which the rate was found."""
    tried: Tried
    curvature: float | None
    """Curvature of log loss in log rate: half of it is lost by a rate off by a factor of e; None without a parabola."""
    edge: Edge | None
    """The end of the tried rates at which the best one lies; None where both sides are worse."""
    reason: str | None
    """Why `rate` is not known to be the best one; None where it is."""
    last_rate: float
    """The rate of the last rung."""
    last_width: int | None = None
    """Width at which the rate was checked; None before."""
    last_tried: Tried = ()
    shift: float | None = None
    """Best rate of the last rung over best rate of the first: 1 where muP carries it over exactly."""

    @classmethod
    def found(cls, base: float, rate: float, width: int, at: Vertex | None, tried: Tried) -> Self:
        """The rate that the cheapest rung gives; `at` is None where every run diverged."""
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
        """A copy with the check on the last rung; its rate changes only if one of the neighbours was better."""
        shift = math.exp(at.at)
        rate = float(f"{self.rate * shift:.3g}") if moves else self.rate
        return replace(self, last_rate=rate, last_width=width, last_tried=tried, shift=shift)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last rung at the task's base width."""
        return self.base * self.last_rate

    @property
    def is_edge(self) -> bool:
        """Whether a better rate may lie beyond those that were tried."""
        return self.edge is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return Record.to_json(self) | {"learning_rate": self.learning_rate}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending(Record):
    """What was planned, and how seeds were added where they decide."""

    planned_runs: int
    """Runs that were expected before the study."""
    planned_flops: float
    """Their training FLOPs."""
    looks: tuple[int, ...]
    """Seeds a width at which verdicts may be looked at; one where no seeds are added."""
    extended: tuple[int, ...] = ()
    """How many candidates got the seeds of the second look, of the third, and so on."""
    saved_runs: int = 0
    """Runs that were not made as they could decide nothing."""
    saved_flops: float = 0.0
    """Their training FLOPs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration(Record):
    """The search for candidates that came before the ranking."""

    sampler: str
    """Who proposed structures."""
    factors: int
    """Largest number of factors."""
    runs: int
    """Runs that the search took, all on the cheapest rung."""
    pruned: int
    """Points of the space that were proposed and failed the pruning criteria; none was trained."""
    repeated: int
    """Proposals that were a network trained before; none was trained again."""
    found: tuple[LayerSpec, ...]
    """Structures that went on to the ranking, best first."""
    rival: LayerSpec | None = None
    """The best candidate that was given, which the best one found is compared with; None where none has a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """Everything that the stages of a study gave."""

    ranked: tuple[TrialResult, ...]
    """Runs of the ranking: every width that was tried at the structure's rate, seeds of the ranking."""
    confirmation: tuple[TrialResult, ...] = ()
    """The best and the yardstick once more, from seeds that decided nothing."""
    tuning: tuple[TrialResult, ...] = ()
    """Runs that only looked for a rate."""
    explored: tuple[TrialResult, ...] = ()
    """Runs that searched for candidates; none is in the ranking."""
    exploration: Exploration | None = None
    """What that search did; None where the candidates were given."""
    unbalanced: tuple[TrialResult, ...] = ()
    """Runs with experts, done once more without the loss that balances their load."""
    rates: Mapping[LayerSpec, TunedRate]
    controls: Mapping[LayerSpec, tuple[LayerSpec, ...]]
    """Structures that the study added, and the candidates that brought each."""
    spending: Spending

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All runs."""
        return (*self.ranked, *self.confirmation, *self.tuning, *self.unbalanced, *self.explored)


def rate_warnings(rates: Mapping[LayerSpec, TunedRate]) -> tuple[str, ...]:
    """What a reader has to know of the learning rates, one sentence each."""
    found = []
    for structure, tuned in rates.items():
        name = short_name(structure)
        if tuned.is_edge:
            found.append(
                f"{name}: the best learning rate, {tuned.base * tuned.rate:.3g}, is the {_END[tuned.edge or 'low']} "
                "that was tried; a better one may lie beyond it"
            )
        if tuned.shift is not None and not 1 / MOST_SHIFT <= tuned.shift <= MOST_SHIFT:
            found.append(
                f"{name}: the best learning rate moved by a factor of {tuned.shift:.2g} between width {tuned.width} on "
                f"the first rung and width {tuned.last_width} on the last: muP does not carry it over here"
            )
    return tuple(found)


_END: Mapping[Edge, str] = {"low": "lowest", "high": "highest"}
