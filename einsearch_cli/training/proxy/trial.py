"""One training run of a study: what is asked for, and what came out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from einsearch_cli.structures import LayerSpec, RoutingStatistics
from einsearch_cli.structures.record import Record

Status = Literal["ok", "diverged", "failed"]
Stage = Literal["explore", "rates", "pilot", "main", "confirmation"]
"""Why a run is made: to find candidates, learning rates or best widths, to measure there, or to measure the best once more."""


@dataclass(frozen=True, slots=True)
class Trial(Record):
    """Train one structure at one width from one seed on a FLOP budget."""

    structure: LayerSpec
    width: int
    seed: int
    rung: int
    """0 is the cheapest rung."""
    budget_flops: float
    """FLOPs of forward and backward passes, embeddings and head left out."""
    balanced: bool = True
    """False for an ablation: experts without the loss that keeps their load balanced. It is never ranked."""
    stage: Stage = "main"
    rate: float = 1.0
    """Learning rate in multiples of the study's base rate."""

    @property
    def key(self) -> str:
        """Equal for trials that train the same; the study runs each key once.

        Neither rung nor stage is in it: they say what a run is for, and another plan may use it otherwise.
        """
        rate = "" if self.rate == 1 else f"|rate={self.rate:.9g}"
        balance = "" if self.balanced else "|unbalanced"
        return f"{self.budget_flops:.9g}|{self.structure}|{self.width}|{self.seed}{rate}{balance}"

    @property
    def pack_key(self) -> Hashable:
        """Equal for trials that can train at once, as they differ in seed and learning rate alone."""
        return self.structure, self.width, self.budget_flops, self.balanced


@dataclass(frozen=True, slots=True)
class TrialResult(Record):
    """What a trial ended with.

    >>> from einsearch_cli.structures import parse_structure
    >>> trial = Trial(parse_structure("dense"), width=64, seed=0, rung=0, budget_flops=1e9)
    >>> result = TrialResult(trial, "ok", 0.5, 4096, 1e9, 1.1e9, 100, 2.0, ((1e9, 0.5),))
    >>> TrialResult.from_json(result.to_json()) == result
    True
    """

    trial: Trial
    status: Status
    loss: float | None
    """Held-out loss at the end of the run; None unless the status is ok."""
    params: int
    train_flops: float
    """Training FLOPs spent, embeddings and head left out."""
    total_flops: float
    """Training FLOPs spent, embeddings and head included."""
    steps: int
    elapsed_s: float
    curve: tuple[tuple[float, float], ...]
    """Training FLOPs so far and held-out loss."""
    error: str | None = None
    executed_flops: float | None = None
    """`total_flops` as the machine carried them out, which may be more; None where they were not counted."""
    routing: tuple[RoutingStatistics, ...] = ()
    """What the routers did with the held-out data at the end of the run; empty without experts."""
    tokens: float | None = None
    """Tokens, or samples, trained on; None where the run has no loss."""
    learning_rate: float | None = None
    """Base learning rate of the run; None where it has no loss."""
    trained_as: LayerSpec | None = None
    """The structure whose run this is, where both are one network at this width; None for a run of its own."""


def failed_result(trial: Trial, status: Status, error: str, elapsed_s: float) -> TrialResult:
    """The result of a trial that has no loss."""
    return TrialResult(trial, status, None, 0, 0.0, 0.0, 0, elapsed_s, (), error)
