"""The register of optimizers: every other file of this folder defines one optimizer of the same name.

A file is imported when its optimizer is first needed, so that costs and checks work without torch. Another package adds
an optimizer by calling `register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from einsearch_cli.register import Register
from einsearch_cli.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from einsearch_cli.models import StructuredNetwork
    from einsearch_cli.training.flat_update import FlatAdamW, FlatLayout
    from einsearch_cli.training.groups import Group, Options

DEFAULT: Final = "adamw"


class OptimizerKind(ABC):
    """Everything that a run needs to know about an optimizer.

    Contract (tests/training/optimizers/contract.py):
        - `options` names every parameter of a model.
        - `make` returns a `torch.optim.Optimizer`, which keeps for a parameter only tensors named in
          `state_names`, and whose steps are a function of gradients, parameters, state and groups.
        - `flat_steps` makes the same steps as `make`.
        - `state_bytes` is the number of bytes of these tensors for each number of a parameter.
    """

    name: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]
    """Names of the tensors that a checkpoint holds for a parameter, if they exist."""
    least_state_bytes: ClassVar[int]
    """Fewest bytes kept for each number of a matrix, in float32."""
    has_flat_steps: ClassVar[bool] = False
    """Whether `flat_steps` is available."""

    @abstractmethod
    def options(
        self, model: StructuredNetwork, *, base_width: int, learning_rate: float, weight_decay: float
    ) -> dict[str, Options]:
        """The options of every parameter by name: this is the learning-rate rule."""

    @abstractmethod
    def make(self, groups: Sequence[Group], settings: UpdateSettings) -> Optimizer:
        """The optimizer of these groups, on any device."""

    def flat_steps(
        self,
        layout: FlatLayout,  # noqa: ARG002
        values_RP: Tensor,  # noqa: ARG002
        options: Sequence[Mapping[str, Options]],  # noqa: ARG002
        settings: UpdateSettings,  # noqa: ARG002
    ) -> FlatAdamW | None:
        """The steps of several runs whose parameters lie in one tensor; None if this optimizer has none.

        With flat steps, the runs of a study can train at once (`training.proxy.packing`).
        """
        return None

    def state_bytes(self, options: Options) -> int:  # noqa: ARG002
        """Bytes kept for each number of a parameter with these options, in float32."""
        return self.least_state_bytes

    def bytes_kept(self, model: nn.Module, options: Mapping[str, Options]) -> int:
        """Bytes kept for all parameters of a model together, in float32."""
        return sum(value.numel() * self.state_bytes(options[name]) for name, value in model.named_parameters())


OPTIMIZERS: Final = Register[OptimizerKind]("optimizer", __name__, __path__)
register, find_optimizer, optimizer_names = OPTIMIZERS.add, OPTIMIZERS.find, OPTIMIZERS.names

OptimizerName = Annotated[str, AfterValidator(OPTIMIZERS.check)]
"""The name of a registered optimizer."""


class UpdateSettings(Settings):
    """How gradients become changes of parameters; proxy and full runs have their own defaults and further keys."""

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
    """Norm to which larger gradients are scaled down."""

    @model_serializer(mode="wrap")
    def _without_default_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default name out, so that studies and runs from before there was a choice can go on."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if (key, value) != ("name", DEFAULT)}
