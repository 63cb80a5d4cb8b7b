"""`TrainSpec`: every setting of a full run as a plain value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from einsearch_cli.data.tokens import DataSettings
from einsearch_cli.errors import SpecError
from einsearch_cli.models.transformer import ModelSettings, TransformerConfig
from einsearch_cli.projection.initialisation_names import Initialisation
from einsearch_cli.settings import FolderName, RuleError, Settings, Whole
from einsearch_cli.training.optimizers import OptimizerKind, UpdateSettings, find_optimizer
from einsearch_cli.training.precision import Precision
from einsearch_cli.training.schedule import ScheduleShape

if TYPE_CHECKING:  # the import loads torch
    from einsearch_cli.models import StructuredNetwork
    from einsearch_cli.training.groups import Options

FREE_TO_CHANGE: Final = frozenset({"name", "data", "validation", "checkpoint", "metrics", "parallel", "controls"})
"""Keys that may change when a run goes on: they do not affect the weights, or (`data`) a digest is compared."""

MAX_STEPS: Final = 10_000_000
"""The most steps of a run: the longest published runs have a million, and draws of a guide are counted one by one."""


class OptimizerSpec(UpdateSettings):
    """Optimizer of a full run; defaults are those of Wei et al. 2024 (arXiv 2406.16450) for their smallest model."""

    learning_rate: float = Field(default=6e-4, gt=0)
    """Base learning rate, at `base_width`."""
    base_width: Whole | None = Field(default=None, ge=1, le=1 << 24, examples=[768])
    """Width at which dense layers train at the base rate; muP scales it for other widths. By default the model's own.
    """
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices, per step times the learning rate; gains, biases and norms have none."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's running mean of squared gradients."""

    def applied_to(self, model: StructuredNetwork) -> tuple[OptimizerKind, dict[str, Options]]:
        """The optimizer, and its options for every parameter of a model."""
        kind = find_optimizer(self.name)
        return kind, kind.options(
            model,
            base_width=self.base_width or model.width,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )


class ScheduleSpec(Settings):
    """The learning rate over the steps of the run."""

    shape: ScheduleShape = "cosine"
    """cosine, constant, or wsd: constant, then straight down over the last fifth of the steps."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly."""
    final: float = Field(default=0.1, ge=0, le=1)
    """The share of the learning rate at which cosine and wsd end."""


class GuidanceSpec(Settings):
    """Self-guided training: dense matrices lead the structured layers through the first part of the run."""

    mode: Literal["full", "stochastic"] = "full"
    """full evaluates the guides in every guided step, stochastic with a probability equal to their weight."""
    ratio: float = Field(default=0.5, gt=0, le=1)
    """Share of the steps that is guided; not allowed with flop_matched, where it follows from the costs."""
    flop_matched: bool = False
    """Guide as many steps, and repeat their tokens at the end, as the training FLOPs of the dense model allow."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.flop_matched and "ratio" in self.model_fields_set:
            raise RuleError(
                "with flop_matched the guided share follows from the costs", remedy="leave ratio or flop_matched out"
            )
        return self


class ValidationSpec(Settings):
    """When the loss over held-out tokens is measured."""

    points: Whole = Field(default=10, ge=1, le=1_000_000)
    """Number of measurements, evenly spaced over the steps; the last one is at the end of the run."""
    blocks: Whole = Field(default=64, ge=1, le=65_536)
    """Held-out blocks per measurement; fewer if there are fewer."""


class CheckpointSpec(Settings):
    """How often a run is saved; it is also saved at its end and when it is stopped."""

    every: Whole = Field(default=1000, ge=1, le=MAX_STEPS)
    """Steps between checkpoints."""


class MetricsSpec(Settings):
    """Where the numbers of the run are written."""

    every: Whole = Field(default=1, ge=1, le=MAX_STEPS)
    """Steps between lines of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=(), strict=False, examples=[["tensorboard"]]
    )
    """Services that get the same numbers; each needs the extra of its name."""


class TrainSpec(Settings):
    """One full run of a transformer.

    >>> spec = TrainSpec(model={"width": 64, "layers": 2, "heads": 1, "context": 32}, batch=4, steps=100)
    >>> spec.config(vocabulary=256).hidden, spec.tokens_per_step
    (256, 128)
    """

    name: FolderName = "train"
    """Name of the run and of its folder under runs/."""
    model: ModelSettings = Field(default_factory=lambda: ModelSettings.model_validate({"preset": "s"}))
    """A `preset` and changes to it, or all sizes; the vocabulary is by default that of the data."""
    data: DataSettings = DataSettings()
    """Source of the tokens; by default the Python standard library's source code."""
    batch: Whole = Field(default=8, ge=1, le=1 << 24)
    """Rows of `context` tokens in one step, of all processes together."""
    accumulation: Whole = Field(default=1, ge=1, le=1 << 24)
    """Parts that every process splits its rows into, one after another, to save memory."""
    steps: Whole | None = Field(default=None, ge=1, le=MAX_STEPS, examples=[1000])
    """Optimizer updates, before those that a FLOP-matched guide adds."""
    tokens: float | None = Field(default=None, gt=0, examples=[1e7])
    """Tokens to train on, instead of `steps`; rounded up to whole steps."""
    initialisation: Initialisation = "spectral"
    """Start of structured layers: spectral (muP), svd (nearest to a dense start), orthogonal (orthogonal blocks)."""
    seed: Whole = Field(default=0, ge=0, lt=1 << 32)
    """Seed of the network's start and of the order of the data."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimizer and learning rate."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Learning rate over the steps."""
    guidance: GuidanceSpec | None = None
    """Self-guided training; off by default."""
    controls: bool = False
    """Also train the guided network without guides, once on as many tokens and once on as many training FLOPs."""
    precision: Precision = "float32"
    """bfloat16 is autocast: products in bfloat16, weights and optimizer in float32."""
    recompute: bool = False
    """Recompute activations inside blocks in the backward pass instead of keeping them (activation checkpointing)."""
    compile: bool = False
    """Compile every block with torch.compile."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With torchrun: copies of the model (DDP), or one copy sharded over the processes (FSDP2)."""
    validation: ValidationSpec = ValidationSpec()
    """Held-out loss."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Saving."""
    metrics: MetricsSpec = MetricsSpec()
    """Logging."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise RuleError("a run has either steps or tokens", remedy="steps: 1000, or tokens: 1e7")
        if self.batch % self.accumulation:
            raise RuleError(
                f"a batch of {self.batch} rows does not divide into {self.accumulation} parts (accumulation)",
                remedy=f"accumulation: {math.gcd(self.batch, self.accumulation)}",
            )
        if self.base_steps > MAX_STEPS:
            raise SpecError(
                f"tokens: {self.tokens:.3g} in steps of {self.tokens_per_step:,} are {self.base_steps:.3g} steps, a run has "
                f"at most {MAX_STEPS:,}",
                remedy="give fewer tokens, or a larger batch",
                keys=("tokens",),
            )
        return self

    def config(self, vocabulary: int) -> TransformerConfig:
        """The network for data with `vocabulary` distinct tokens; SpecError if the spec gives a smaller vocabulary."""
        return self.model.config(vocabulary)

    @property
    def context(self) -> int:
        """Number of tokens in a row."""
        return self.model.context

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step, of all processes together."""
        return self.batch * self.context

    @property
    def base_steps(self) -> int:
        """Steps of the run, before those that a FLOP-matched guide adds."""
        return self.steps or -int(-(self.tokens or 0.0) // self.tokens_per_step)

    def same_run(self) -> dict[str, Any]:
        """Everything that determines what is trained, as plain values; runs with equal values have equal weights."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in FREE_TO_CHANGE}
