"""The register of tasks: every other file of this folder defines one task of the same name.

A plug-in adds a task by calling `register`; `einsearch rank --task NAME` then takes it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from pydantic import Field

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.data import Batch
from einsearch_cli.models.counts import NetworkCount
from einsearch_cli.models.transformer.accounting import transformer_count
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.models.transformer.presets import proxy_config
from einsearch_cli.register import Register
from einsearch_cli.settings import Given, Settings, Whole, in_code, read_settings
from einsearch_cli.structures import LayerSpec
from einsearch_cli.structures.safe_yaml import Location

if TYPE_CHECKING:  # tasks are listed, and their settings checked, without torch
    import torch
    from torch import Tensor

    from einsearch_cli.models import StructuredNetwork


class TaskSettings(Settings):
    """Settings that every task has; each task adds its own."""

    base_width: Whole
    """Width at which the base learning rate applies unchanged; muP scales it for other widths."""

    learning_rate: float
    """Base learning rate of AdamW at `base_width`."""

    @classmethod
    def rebased(cls, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:  # noqa: ARG003
        """Plain settings from a study file, with relative paths read from the folder of that file."""
        return dict(values)


SettingsT = TypeVar("SettingsT", bound=TaskSettings)


class Task(ABC, Generic[SettingsT]):
    """Data, network and loss of a proxy run.

    Contract (tests/tasks/contract.py):
        - Making a task only checks its settings; `prepare()` reads or computes the data and may be called
          often, from several processes at once. Every other method calls it if needed.
        - `batches(seed)` never ends and gives the same batches for the same seed, settings and data.
        - `joint_batches` gives the same batches, on any device.
        - `validation()` is the same for every run and shares no sample with `batches`.
        - `loss` depends on model and batch alone: narrow runs record its operations in their first step.
        - `loss` is a mean over the tokens of the batch (for regression: samples), and 0 is perfect.
        - `count` gives exactly what the network of `build_model` counts of itself.
        - `fingerprint()` is equal for two tasks exactly when their losses can be compared.
        - The seed of a trial never changes the data set itself, only its order and the network's start.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[TaskSettings]]
    format: ClassVar[int] = 1
    """The version of the task, which rises when equal settings and files give other losses."""
    told_by_digest: ClassVar[frozenset[str]] = frozenset()
    """Settings that `data_digest` replaces in the fingerprint, such as the path of a text."""

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
    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        """Build a network whose linear layers carry `structure` or experts of it, drawn by torch's global generator.

        Raises:
            SpecError: experts that this task's network has no place for.
        """

    def count(self, structure: LayerSpec, width: int) -> NetworkCount:
        """Parameters and FLOPs of the network of `build_model`; this needs no data and, in most tasks, no torch.

        If a task does not compute them, its network is built on the meta device.
        """
        import torch

        with torch.device("meta"):
            return self.build_model(structure, width).count()

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches."""

    def joint_batches(self, seeds: Sequence[int], device: torch.device) -> Iterator[Batch]:
        """The batches of several seeds at once, on a device; the first axis of both tensors is the seed.

        If the data fit on the device, a task keeps them there, so that a step only sends what was drawn.
        """
        import torch

        for several in zip(*map(self.batches, seeds), strict=True):
            yield Batch(*(sent(torch.stack(parts), device) for parts in zip(*several, strict=True)))

    @abstractmethod
    def validation(self) -> tuple[Batch, ...]:
        """The held-out batches, all of one size."""

    @abstractmethod
    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        """The mean loss over the batch, a scalar with gradient."""

    @property
    @abstractmethod
    def tokens_per_batch(self) -> int:
        """Tokens (for regression: samples) in a training batch."""

    @property
    @abstractmethod
    def loss_unit(self) -> str:
        """The unit of the loss, for tables and axes."""

    def described(self) -> dict[str, str]:
        """The model and its data in words: name of a fact → a sentence; the head of a report shows them.

        A task that does not say it itself is described by its first docstring line and its settings.
        """
        purpose = (inspect.getdoc(type(self)) or self.name).partition("\n")[0]
        settings = self.settings.model_dump(mode="json", exclude={"base_width", "learning_rate"})
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
        return {"Task": purpose, **({"Settings": said} if said else {}), "Batch": f"{self.tokens_per_batch:,} a step"}

    def caution(self) -> tuple[str, str] | None:
        """A weakness of the data that no interval shows, and its remedy, both in words; None without one."""
        return None

    def data_digest(self) -> str:
        """SHA-256 of data that the settings alone do not determine; empty if they do."""
        return ""

    def data_files(self) -> Mapping[str, Path]:
        """The files that runs read, by their names in a copy; empty if the settings alone determine the data.

        Runs on other machines get copies of these files (`reading_from`), so that all of them train on the same bits.
        """
        return {}

    def reading_from(self, folder: Path) -> Task[SettingsT]:  # noqa: ARG002
        """This task, reading copies of its `data_files` from a folder on a machine without the originals."""
        return self

    def fingerprint(self) -> str:
        """SHA-256 over name, format, settings and data."""
        settings = self.settings.model_dump(mode="json", exclude=set(self.told_by_digest))
        identity: dict[str, Any] = {"task": self.name, "settings": settings, "data": self.data_digest()}
        if self.format > 1:  # Studies from before there was a second format keep their fingerprint.
            identity["format"] = self.format
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class TransformerTaskSettings(TaskSettings):
    """Settings of every task with a transformer as its network."""

    layers: Whole = Field(default=2, ge=1, le=200)
    """Transformer blocks of the network."""

    base_width: Whole = Field(default=64, ge=1, le=1_000_000)
    """Width at which the learning rate applies unchanged; muP scales it for other widths."""

    learning_rate: float = Field(default=3e-2, gt=0)
    """Base learning rate of AdamW at `base_width`."""


TransformerSettingsT = TypeVar("TransformerSettingsT", bound=TransformerTaskSettings)


class TransformerTask(Task[TransformerSettingsT]):
    """A task of rows of tokens, with a small transformer that predicts the next token."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of distinct tokens."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens in a row: the number that the network sees at once."""

    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        """Build a transformer of the given width; dense layers are a structure too, with gain and cap."""
        from einsearch_cli.models import Transformer, structured_linear

        return Transformer(self._config(structure, width), structured_linear(structure))

    def count(self, structure: LayerSpec, width: int) -> NetworkCount:
        """Parameters and FLOPs of the transformer that `build_model` builds, by arithmetic."""
        return transformer_count(self._config(structure, width), dense_as_structure=True)

    def _config(self, structure: LayerSpec, width: int) -> TransformerConfig:
        return proxy_config(
            vocabulary=self.vocabulary,
            width=width,
            layers=self.settings.layers,
            context=self.context,
            structure=str(structure),
        )

    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        """Cross-entropy in nats per token."""
        import torch.nn.functional as F

        logits_BTV = model(batch.inputs)
        return F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets.flatten())

    def _network(self) -> str:
        """The network in words."""
        layers = self.settings.layers
        return (
            f"A decoder-only transformer of {layers} block{'s' * (layers != 1)}, with rotary positions, LayerNorm, GELU and "
            "heads of at most 64. The structure is in every linear layer, attention included; embeddings and head are dense."
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; copies to a GPU run in the background."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


AnyTask = Task[Any]
TASKS: Final = Register[type[AnyTask]]("task", __name__, __path__)
register, find_task, task_names = TASKS.add, TASKS.find, TASKS.names


def open_task(name: str, settings: Mapping[str, object] | None = None, cache_folder: Path | None = None) -> AnyTask:
    """Open a task by its name and plain settings, as a study file gives them.

    Args:
        name: a registered task.
        settings: field -> value; fields left out keep their default.
        cache_folder: folder for computed data; None means the user's cache folder.

    Raises:
        SpecError: unknown task.
        SettingError: unknown field, or a value that a field does not take.

    >>> open_task("teacher", {"batch_size": 256}).settings.batch_size
    256
    """
    kind = find_task(name)

    def origin(location: Location) -> Given:
        return replace(in_code(location), place=f"task {name!r}: ")

    return kind(read_settings(kind.settings_type, settings or {}, origin), cache_folder)
