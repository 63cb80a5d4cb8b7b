"""What a proxy task is, and the register of tasks."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from einsearch_cli.errors import SpecError
from einsearch_cli.models.counts import NetworkCount
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:  # tasks are listed, and their settings checked, without torch
    from torch import Tensor

    from einsearch_cli.models import ProxyModel


class Batch(NamedTuple):
    """Inputs and what should come out; the first axis of both is the batch."""

    inputs: Tensor
    targets: Tensor


class TaskSettings(BaseModel):
    """Settings that every task has; each task adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_width: int
    """Width at which the base learning rate holds as it is; other widths scale it by muP."""

    learning_rate: float
    """Base learning rate of AdamW at `base_width`."""


SettingsT = TypeVar("SettingsT", bound=TaskSettings)


class Task(ABC, Generic[SettingsT]):
    """Data, network and loss of a proxy run.

    Contract:
        - Making a task only checks its settings; `prepare()` reads or computes the data and may be called
          often, from several processes at once. Every other method calls it when it has to.
        - `batches(seed)` never ends and gives the same batches for the same seed, settings and data.
        - `validation()` is the same for every run and shares no sample with `batches`.
        - `loss` is a mean over the tokens of the batch (for regression: samples), and 0 is perfect.
        - `count` gives exactly what the network of `build_model` counts of itself.
        - `fingerprint()` is equal for two tasks exactly when their losses can be compared.
        - The seed of a trial never touches the data set itself, only its order and the network's start.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[TaskSettings]]

    def __init__(self, settings: SettingsT, cache_folder: Path | None = None) -> None:
        self.settings = settings
        self.cache_folder = default_cache_folder() if cache_folder is None else cache_folder

    @abstractmethod
    def prepare(self) -> None:
        """Read or compute the data, once.

        Raises:
            DataError: the data cannot be read or are too small.
        """

    @abstractmethod
    def build_model(self, structure: LayerSpec, width: int) -> ProxyModel:
        """A fresh network whose linear layers carry `structure`, or experts of it; draws from torch's global generator.

        Raises:
            SpecError: experts that this task's network has no place for.
        """

    def count(self, structure: LayerSpec, width: int) -> NetworkCount:
        """What the network of `build_model` has and costs, known before there are data or torch where a task can say.

        A task that does not say it itself has its network built on the meta device.
        """
        import torch

        with torch.device("meta"):
            return self.build_model(structure, width).count()

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches."""

    @abstractmethod
    def validation(self) -> tuple[Batch, ...]:
        """Held-out batches, all of one size."""

    @abstractmethod
    def loss(self, model: ProxyModel, batch: Batch) -> Tensor:
        """Mean loss over the batch, a scalar with gradient."""

    @property
    @abstractmethod
    def tokens_per_batch(self) -> int:
        """Tokens (for regression: samples) in a training batch."""

    @property
    @abstractmethod
    def loss_unit(self) -> str:
        """What the loss is measured in, for tables and axes."""

    def data_digest(self) -> str:
        """SHA-256 of data that settings alone do not determine; empty when they do."""
        return ""

    def fingerprint(self) -> str:
        """SHA-256 over name, settings and data."""
        identity = {"task": self.name, "settings": self.settings.model_dump(mode="json"), "data": self.data_digest()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


AnyTask = Task[Any]
_REGISTER: dict[str, type[AnyTask]] = {}
TaskClass = TypeVar("TaskClass", bound="type[AnyTask]")


def register_task(name: str, settings_type: type[TaskSettings]) -> Callable[[TaskClass], TaskClass]:
    """Class decorator: make a task known under `name`, with the settings it reads."""

    def register(kind: TaskClass) -> TaskClass:
        if name in _REGISTER:
            raise ValueError(f"two tasks are named {name!r}: {_REGISTER[name].__name__} and {kind.__name__}")
        kind.name = name
        kind.settings_type = settings_type
        _REGISTER[name] = kind
        return kind

    return register


def task_names() -> tuple[str, ...]:
    """Names of all registered tasks, sorted."""
    return tuple(sorted(_REGISTER))


def find_task(name: str) -> type[AnyTask]:
    """The task class registered under `name`.

    Raises:
        SpecError: no such task; names the nearest.
    """
    if name in _REGISTER:
        return _REGISTER[name]
    raise SpecError(f"no task {name!r}", remedy=_suggest(name, task_names()))


def open_task(name: str, settings: Mapping[str, object] | None = None, cache_folder: Path | None = None) -> AnyTask:
    """A task from its name and plain settings, as a study file gives them.

    Args:
        name: a registered task.
        settings: field -> value; fields left out keep their default.
        cache_folder: where computed data are kept; the user's cache folder when None.

    Raises:
        SpecError: unknown task or field, or a value that a field does not take.

    >>> open_task("teacher", {"batch_size": 256}).settings.batch_size
    256
    """
    kind = find_task(name)
    given = dict(settings or {})
    fields = kind.settings_type.model_fields
    for field in given:
        if field not in fields:
            raise SpecError(f"task {name!r} has no setting {field!r}", remedy=_suggest(str(field), tuple(fields)))
    try:
        parsed = kind.settings_type.model_validate(given)
    except ValidationError as error:
        raise _settings_error(name, error) from None
    return kind(parsed, cache_folder)


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/einsearch`, or `~/.cache/einsearch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "einsearch"


def _suggest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"use {near[0]!r}" if near else f"use one of: {', '.join(known)}"


def _settings_error(name: str, error: ValidationError) -> SpecError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    subject = f"setting {field!r} of task {name!r} is {first['input']!r}" if field else f"settings of task {name!r}"
    return SpecError(
        f"{subject}: {_lower_first(first['msg'])}", remedy=f"give {field or 'settings'} that obey this rule"
    )


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
