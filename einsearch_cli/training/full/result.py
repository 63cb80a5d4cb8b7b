"""The result of a full run, kept in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import CheckpointError
from einsearch_cli.files import write_atomically
from einsearch_cli.settings import differences

RESULT: Final = "result.json"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a finished run."""

    name: str
    structure: str
    """The structure of the structured layers."""
    loss: float
    """Held-out loss at the end, nats per token."""
    params: int
    """Trainable numbers, without guides."""
    steps: int
    guided_steps: int
    repeated_steps: int
    tokens: int
    """Tokens seen in training, repeated ones counted again."""
    flops: int
    """Training FLOPs without embeddings and head; guides included."""
    total_flops: int
    """Training FLOPs with embeddings and head."""
    elapsed_s: float
    """Wall time, validation included, over all sessions."""
    spec: dict[str, Any]
    """The result of `TrainSpec.same_run()`."""
    data_digest: str

    def save(self, run: Path) -> None:
        """Write the result into the folder of the run."""
        write_atomically(run / RESULT, json.dumps(asdict(self), indent=1) + "\n")


def read_result(run: Path) -> RunResult | None:
    """The result of a finished run; None for an unfinished one.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run / RESULT
    if not path.exists():
        return None
    try:
        return RunResult(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {str(error)[:100]}",
            remedy="remove it: the same command then reads the last checkpoint",
        ) from error


def refuse_other_run(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise CheckpointError, naming the keys that differ, unless the folder's run is the wanted one."""
    differing = differences(before, now)
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(
            f"{run} holds a run with other settings: {shown}",
            remedy="give another --out, or the settings that the run was started with",
        )


def refuse_other_data(run: Path, before: str, now: str) -> None:
    """Raise CheckpointError unless the tokens are those on which the folder's run was trained."""
    if before != now:
        raise CheckpointError(
            f"{run} holds a run on other data: the tokens had SHA-256 {before[:12]}…, now {now[:12]}…",
            remedy="restore the data, or give another --out to start over with these",
        )
