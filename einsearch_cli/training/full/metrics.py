"""`metrics.jsonl`: one line of numbers per logged step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import DataError
from einsearch_cli.files import write_atomically, write_error
from einsearch_cli.training.sealed import GOES_ON, WRITABLE

METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The numbers of one step."""

    step: int
    """Number of updates made, including this one."""
    tokens: int
    """Tokens seen so far, repeated ones counted again."""
    flops: int
    """Training FLOPs so far without embeddings and head: 3 × forward, guides included, recomputation not."""
    total_flops: int
    """Training FLOPs so far with embeddings and head: 3 × forward, guides included, recomputation not."""
    loss: float
    """Training loss of this step before its update, nats per token."""
    learning_rate: float
    """Base learning rate of this step."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    tokens_per_s: float
    """Tokens per second in this step, all processes together."""
    guide_weight: float
    """Weight a of the guides; 0 without guides."""
    validation_loss: float | None = None
    """Held-out loss after this step, nats per token, where it was measured."""
    smallest_load: float | None = None
    """Held-out share of the least used expert of any layer, times the number of experts; None without experts."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain values; `validation_loss` and `smallest_load` only if they exist."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class MetricsFile:
    """Appends to the metrics of a run.

    Lines after `step` are dropped, because they were written after the checkpoint from which the run goes on.
    OutputError if the file cannot be written.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / METRICS
        with _refusing(self.path):
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= step]
            write_atomically(self.path, "".join(kept))
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, metrics: StepMetrics) -> None:
        """Write one line."""
        with _refusing(self.path):
            self._file.write(json.dumps(metrics.to_json()) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force all lines to disk; done before a checkpoint, so that none up to it can be missing."""
        with _refusing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.

    Raises:
        DataError: the run has no metrics.
    """
    lines = [json.loads(line) for line in _whole_lines(run / METRICS)]
    if not lines:
        raise DataError(f"{run / METRICS} has no metrics", remedy="give the folder of a run that has made steps")
    return lines


def _whole_lines(path: Path) -> Iterator[str]:
    """Lines that are JSON objects; a killed process or a full disk may leave the last line incomplete."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            is_whole = line.endswith("\n") and "step" in json.loads(line)
        except (ValueError, TypeError):
            is_whole = False
        if is_whole:
            yield line


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(str(path), error, full=GOES_ON, otherwise=WRITABLE) from error
