"""TensorBoard, Weights & Biases and MLflow: the numbers of metrics.jsonl sent there too."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
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


def open_trackers(names: Sequence[str], run: Path, title: str, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """The trackers of these names for a run.

    Args:
        names: tensorboard, wandb, mlflow.
        run: its folder.
        title: its name.
        settings: its spec as plain values.
        step: updates that are made already; later numbers of an interrupted session are replaced.

    Raises:
        SpecError: the package of one is not installed.
    """
    return [_OPENERS[name](run, title, settings, step) for name in names]


class _TensorBoard:
    def __init__(self, run: Path, title: str, settings: Mapping[str, Any], step: int) -> None:
        _required("tensorboard", "tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run / "tensorboard"), purge_step=step + 1)
        self._writer.add_text("spec", f"{title}: {json.dumps(settings)}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, run: Path, title: str, settings: Mapping[str, Any], step: int) -> None:
        wandb = _required("wandb", "wandb")
        known = _identity(run, "wandb")
        self._run = wandb.init(
            project="einsearch", name=title, dir=str(run), config=dict(settings), id=known, resume="allow"
        )
        _keep_identity(run, "wandb", str(self._run.id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: Path, title: str, settings: Mapping[str, Any], step: int) -> None:
        self._mlflow = _required("mlflow", "mlflow")
        known = _identity(run, "mlflow")
        started = self._mlflow.start_run(run_id=known, run_name=title)
        if known is None:
            self._mlflow.log_dict(dict(settings), "spec.json")
        _keep_identity(run, "mlflow", str(started.info.run_id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_OPENERS: Final[dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]]] = {
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


def _identity(run: Path, name: str) -> str | None:
    try:
        known = json.loads((run / IDENTITIES).read_text(encoding="utf-8"))
        return str(known[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep_identity(run: Path, name: str, identity: str) -> None:
    try:
        known = dict(json.loads((run / IDENTITIES).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    write_atomically(run / IDENTITIES, json.dumps({**known, name: identity}) + "\n")
