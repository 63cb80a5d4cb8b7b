"""Settings that proxy and full runs share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from einsearch_cli.settings import Settings
from einsearch_cli.training.optimizers import DEFAULT, check_name

OptimizerName = Annotated[str, AfterValidator(check_name)]
"""The name of a registered optimizer."""


class UpdateSettings(Settings):
    """How gradients become changes of parameters; proxy and full runs have defaults and further keys of their own."""

    name: OptimizerName = DEFAULT
    """Optimizer: adamw, or muon, which orthogonalises the updates of matrices and leaves the rest to AdamW."""

    learning_rate: float | None = Field(default=None, gt=0, examples=[0.01])
    """Base learning rate, at the base width."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices, per step times the learning rate; gains, biases and norms have none."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's running mean of gradients."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of AdamW's running mean of squared gradients."""

    clip_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """Gradients are scaled down to this norm when theirs is larger."""

    @model_serializer(mode="wrap")
    def _without_default_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies and runs of before there was a choice go on: their settings have no name."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if (key, value) != ("name", DEFAULT)}
