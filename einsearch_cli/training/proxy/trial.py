"""`Trial` and `TrialResult`: one training run of a study and its result."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from einsearch_cli.structures import LayerSpec, RoutingStatistics
from einsearch_cli.structures.record import Record

Status = Literal["ok", "diverged", "failed"]
Stage = Literal["explore", "rates", "pilot", "main", "confirmation"]
"""The purpose of a run: to find candidates, learning rates or best widths, to measure, or to confirm the best."""


@dataclass(frozen=True, slots=True)
class Trial(Record):
    """Train one structure at one width from one seed on a FLOP budget."""

    structure: LayerSpec
    width: int
    seed: int
    rung: int
    """Number of the rung; 0 is the cheapest."""
    budget_flops: float
    """FLOPs of forward and backward passes, without embeddings and head."""
    balanced: bool = True
    """False for an ablation, which trains experts without the loss that balances their load. It is never ranked."""
    stage: Stage = "main"
    rate: float = 1.0
    """The learning rate in multiples of the study's base rate."""

    @property
    def key(self) -> str:
        """A text that is equal for trials that train the same; the study runs each key once.

        It contains neither rung nor stage: they are the purpose of a run, and another plan may use the run for another
        purpose.
        """
        rate = "" if self.rate == 1 else f"|rate={self.rate:.9g}"
        balance = "" if self.balanced else "|unbalanced"
        return f"{self.budget_flops:.9g}|{self.structure}|{self.width}|{self.seed}{rate}{balance}"

    @property
    def pack_key(self) -> Hashable:
        """A value that is equal for trials that can train at once, because only seed and learning rate differ."""
        return self.structure, self.width, self.budget_flops, self.balanced


@dataclass(frozen=True, slots=True)
class TrialResult(Record):
    """The result of a trial.

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
    """Training FLOPs spent, without embeddings and head."""
    total_flops: float
    """Training FLOPs spent, with embeddings and head."""
    steps: int
    elapsed_s: float
    curve: tuple[tuple[float, float], ...]
    """Pairs of training FLOPs so far and held-out loss."""
    error: str | None = None
    executed_flops: float | None = None
    """`total_flops` as the machine executed them, which may be more; None if they were not counted."""
    routing: tuple[RoutingStatistics, ...] = ()
    """The routers' statistics for the held-out data at the end of the run; empty without experts."""
    tokens: float | None = None
    """Tokens, or samples, trained on; None if the run has no loss."""
    learning_rate: float | None = None
    """Base learning rate of the run; None if it has no loss."""
    trained_as: LayerSpec | None = None
    """The structure whose run this is, if both are one network at this width; None for a run of its own."""


def failed_result(trial: Trial, status: Status, error: str, elapsed_s: float) -> TrialResult:
    """The result of a trial that has no loss."""
    return TrialResult(trial, status, None, 0, 0.0, 0.0, 0, elapsed_s, (), error)
