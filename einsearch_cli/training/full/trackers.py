"""TensorBoard, Weights & Biases and MLflow: the numbers of metrics.jsonl sent there too."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from einsearch_cli.errors import SpecError
from einsearch_cli.files import write_atomically

IDENTITIES: Final = "trackers.json"
"""Keeps the number that a service gave the run, so that a resumed run goes on under it."""


class Tracker(Protocol):
    """Gets the numbers of logged steps."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name."""

    def close(self) -> None:
        """The run is over, or stops."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a service is told of a run when it starts or goes on."""

    folder: Path
    title: str
    settings: Mapping[str, Any]
    """Its spec as plain values."""
    step: int
    """Updates made already; numbers that an interrupted session sent after it are replaced."""


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """The trackers of these names (tensorboard, wandb, mlflow) for a run.

    Raises:
        SpecError: the package of one is not installed.
    """
    return [_OPENERS[name](run) for name in names]


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        _required("tensorboard", "tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tensorboard"), purge_step=run.step + 1)
        self._writer.add_text("spec", f"{run.title}: {json.dumps(run.settings)}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, run: TrackedRun) -> None:
        wandb = _required("wandb", "wandb")
        known = _identity(run.folder, "wandb")
        self._run = wandb.init(
            project="einsearch",
            name=run.title,
            dir=str(run.folder),
            config=dict(run.settings),
            id=known,
            resume="allow",
        )
        _keep_identity(run.folder, "wandb", str(self._run.id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: TrackedRun) -> None:
        self._mlflow = _required("mlflow", "mlflow")
        known = _identity(run.folder, "mlflow")
        started = self._mlflow.start_run(run_id=known, run_name=run.title)
        if known is None:
            self._mlflow.log_dict(dict(run.settings), "spec.json")
        _keep_identity(run.folder, "mlflow", str(started.info.run_id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_OPENERS: Final[dict[str, Callable[[TrackedRun], Tracker]]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}


def _required(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SpecError(
            f"metrics.trackers has {extra}: the package {error.name or module} is not installed",
            remedy=f"pip install 'einsearch[{extra}]'",
        ) from error


def _identity(folder: Path, name: str) -> str | None:
    return _identities(folder).get(name)


def _keep_identity(folder: Path, name: str, identity: str) -> None:
    write_atomically(folder / IDENTITIES, json.dumps({**_identities(folder), name: identity}) + "\n")


def _identities(folder: Path) -> dict[str, str]:
    """What is kept; nothing if it is not there or damaged: the run then goes on under a new number."""
    try:
        known = json.loads((folder / IDENTITIES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}
