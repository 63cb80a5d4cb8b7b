"""The register of optimizers: every other file of this folder is one, and its name is the optimizer's.

A file is imported when its optimizer is first asked for, so that what can be known without torch is.
Another package adds an optimizer by calling `register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Final

from einsearch_cli.errors import SpecError, near_name
from einsearch_cli.settings.model import RuleError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from einsearch_cli.models import ProxyModel
    from einsearch_cli.training.settings import UpdateSettings

DEFAULT: Final = "adamw"

Options = Mapping[str, float]
"""What an optimizer is to know about a parameter: `lr` at its peak, `weight_decay`, and what it adds to them."""

Group = dict[str, Any]
"""A group of `torch.optim`: `params`, their options, and `peak_lr`."""


class OptimizerKind(ABC):
    """What a run has to know about an optimizer.

    Contract (tests/training/optimizers/contract.py):
        - `options` names every parameter of a model.
        - `make` gives one `torch.optim.Optimizer`, which keeps for a parameter only tensors named in
          `state_names`, and whose steps are a function of gradients, parameters, state and groups.
        - `state_bytes` is what these tensors take for each number of a parameter, of the parameter's shape.
    """

    name: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]
    """What a checkpoint holds for a parameter, if it is there."""
    least_state_bytes: ClassVar[int]
    """Bytes kept for each number of a matrix, in float32."""

    @abstractmethod
    def options(
        self, model: ProxyModel, *, base_width: int, learning_rate: float, weight_decay: float
    ) -> dict[str, Options]:
        """The options of every parameter by name: the learning-rate rule."""

    @abstractmethod
    def make(self, groups: Sequence[Group], settings: UpdateSettings) -> Optimizer:
        """The optimizer of these groups, on any device."""

    def state_bytes(self, options: Options) -> int:  # noqa: ARG002
        """Bytes kept for each number of a parameter with these options, in float32."""
        return self.least_state_bytes


_REGISTER: dict[str, OptimizerKind] = {}


def register(kind: OptimizerKind) -> None:
    """Make an optimizer known by its name.

    Raises:
        ValueError: another one has that name.
    """
    if kind.name in _REGISTER or (kind.name in _files() and type(kind).__module__ != f"{__name__}.{kind.name}"):
        raise ValueError(f"two optimizers are named {kind.name!r}")
    _REGISTER[kind.name] = kind


def _files() -> frozenset[str]:
    return frozenset(module.name for module in iter_modules(__path__))


def optimizer_names() -> tuple[str, ...]:
    """Names of all optimizers, sorted.

    >>> "adamw" in optimizer_names()
    True
    """
    return tuple(sorted(_files() | set(_REGISTER)))


def check_name(name: str) -> str:
    """The name of an optimizer, for a setting; RuleError if there is none of that name."""
    if name not in optimizer_names():
        near = near_name(name, optimizer_names()) or DEFAULT
        raise RuleError(f"the optimizers are {', '.join(optimizer_names())}", remedy=near)
    return name


def find_optimizer(name: str) -> OptimizerKind:
    """The optimizer of this name.

    Raises:
        SpecError: no such optimizer.

    >>> find_optimizer("adamw").state_names
    ('exp_avg', 'exp_avg_sq', 'step')
    """
    try:
        check_name(name)
    except RuleError as error:
        raise SpecError(f"no optimizer is named {name[:60]!r}: {error}", remedy=f"use {error.remedy}") from None
    if name not in _REGISTER:
        import_module(f"{__name__}.{name}")
    return _REGISTER[name]
