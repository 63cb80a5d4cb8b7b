"""The settings of one training run, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import Field

from einsearch_cli.settings import Whole
from einsearch_cli.structures import AUXILIARY_WEIGHT, LayerSpec, RoutingStatistics
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.optimizers import UpdateSettings
from einsearch_cli.training.precision import Precision


class OptimizerSettings(UpdateSettings):
    """Optimizer with warm-up and cosine decay, the same for every candidate.

    By default, the learning rate is the task's own, which was chosen for AdamW.
    """

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the steps over which the learning rate rises linearly."""

    final: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the learning rate at the last step."""

    auxiliary_weight: float = Field(default=AUXILIARY_WEIGHT, ge=0)
    """Weight of the loss that balances the load of experts; it has no effect without experts."""

    validations: Whole = Field(default=10, ge=1, le=1_000_000)
    """Points of the loss curve, evenly spaced over the steps; the last one is the end of the run."""


@dataclass(frozen=True, kw_only=True)
class ProxyRun:
    """Everything that determines one training run."""

    task: AnyTask
    """Data, network and loss."""

    structure: LayerSpec
    """The structure of every linear layer but the head, or of its experts."""

    width: int
    """Width of the network."""

    budget_flops: float
    """FLOPs of forward and backward passes, without embeddings and head."""

    seed: int = 0
    """Seed of the network's start and of the order of the data."""

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Learning rate, schedule and clipping."""

    precision: Precision = "float32"
    """bfloat16 is autocast: products in bfloat16, weights and optimizer in float32."""

    device: str = "cpu"
    """The device, in torch's words. Starts and data are equal everywhere, losses up to rounding."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """The result of a finished run."""

    loss: float
    """Validation loss at the end."""

    curve: tuple[tuple[float, float], ...]
    """(training FLOPs so far without embeddings and head, validation loss), the end included."""

    params: int
    """Trainable numbers, embeddings and head included."""

    train_flops: float
    """Training FLOPs spent, without embeddings and head; less than a step below the budget."""

    total_flops: float
    """Training FLOPs spent, with embeddings and head; validation is not counted."""

    executed_flops: float
    """`total_flops` as this machine executed them.

    They are more if factors are multiplied with each other in every step, or intermediates are computed twice. torch
    counts them in the first step; attention is counted by the network's own formula.
    """

    steps: int
    """Optimizer updates."""

    learning_rate: float
    """Base learning rate that was used."""

    elapsed_s: float
    """Wall time with validation, without reading or labelling data; in a pack, its time divided by the number of runs."""

    routing: tuple[RoutingStatistics, ...] = ()
    """The routers' statistics for the held-out data at the end; empty without experts."""
