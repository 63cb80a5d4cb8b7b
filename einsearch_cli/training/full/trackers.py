"""TensorBoard, Weights & Biases and MLflow, which receive the numbers of metrics.jsonl."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import SpecError
from einsearch_cli.files import write_atomically

IDENTITIES: Final = "trackers.json"
"""The file that keeps a run's identifiers at the services, so that a resumed run continues under them."""


@dataclass(frozen=True)
class Tracker:
    """A service that receives the numbers of logged steps."""

    log: Callable[[int, dict[str, float]], object]
    """A function that takes a step and its numbers by name."""
    close: Callable[[], object]
    """A function that is called when the run is over or stops."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The facts that a service receives when a run starts or is resumed."""

    folder: Path
    title: str
    settings: Mapping[str, Any]
    """The spec of the run as plain values."""
    step: int
    """Updates already made; numbers that an interrupted session sent after them are replaced."""


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """The trackers of these names (tensorboard, wandb, mlflow); SpecError if the package of one is missing."""
    return [_OPENERS[name](run) for name in names]


def _tensorboard(run: TrackedRun) -> Tracker:
    _required("tensorboard", "tensorboard")
    make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    writer = make(str(run.folder / "tensorboard"), purge_step=run.step + 1)
    writer.add_text("spec", f"{run.title}: {json.dumps(run.settings)}")

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _wandb(run: TrackedRun) -> Tracker:
    started = _required("wandb", "wandb").init(
        project="einsearch",
        name=run.title,
        dir=str(run.folder),
        config=dict(run.settings),
        id=_identities(run.folder).get("wandb"),
        resume="allow",
    )
    _keep_identity(run.folder, "wandb", str(started.id))
    return Tracker(lambda step, values: started.log(values, step=step), started.finish)


def _mlflow(run: TrackedRun) -> Tracker:
    mlflow = _required("mlflow", "mlflow")
    known = _identities(run.folder).get("mlflow")
    started = mlflow.start_run(run_id=known, run_name=run.title)
    if known is None:
        mlflow.log_dict(dict(run.settings), "spec.json")
    _keep_identity(run.folder, "mlflow", str(started.info.run_id))
    return Tracker(lambda step, values: mlflow.log_metrics(values, step=step), mlflow.end_run)


_OPENERS: Final[dict[str, Callable[[TrackedRun], Tracker]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _required(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SpecError(
            f"metrics.trackers has {extra}: the package {error.name or module} is not installed",
            remedy=f"pip install 'einsearch[{extra}]'",
        ) from error


def _keep_identity(folder: Path, name: str, identity: str) -> None:
    write_atomically(folder / IDENTITIES, json.dumps({**_identities(folder), name: identity}) + "\n")


def _identities(folder: Path) -> dict[str, str]:
    """The stored identifiers; empty if the file is missing or damaged, and the run then gets new ones."""
    try:
        known = json.loads((folder / IDENTITIES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}
