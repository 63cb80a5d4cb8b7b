"""The status of a study: a small file that its process replaces, and anyone may read at any time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import pydantic

from einsearch_cli.errors import StudyError
from einsearch_cli.search.owner import Owner
from einsearch_cli.structures.record import Record

STATUS: Final = "status.json"
FORMAT: Final = 1

State = Literal["preparing", "running", "timing", "finished", "stopped", "failed", "killed"]
"""The state of a study.

`timing`: all runs have ended, and steps are timed. `killed`: the process is gone without having ended the study; only
readers find this.
"""
ENDS: Final[tuple[State, ...]] = ("finished", "stopped", "failed", "killed")


@dataclass(frozen=True, slots=True)
class StageStatus(Record):
    """The current stage."""

    name: str
    rung: int
    """Number of the rung; 0 is the cheapest."""
    rungs: int
    budget_flops: float
    """Training FLOPs of each run."""
    runs: int
    finished: int


@dataclass(frozen=True, slots=True)
class RunCounts(Record):
    """Numbers of runs of the study, including those of earlier processes."""

    expected: int | None = None
    """All runs by the plan, None before the plan is made; results may change the number."""
    ok: int = 0
    diverged: int = 0
    failed: int = 0
    tried_again: int = 0
    """How often this process gave a run to another worker because its worker had died."""
    running: int = 0
    """Runs that the engine has taken."""
    queued: int = 0
    """Runs of the stage that the engine has not taken yet."""

    @property
    def ended(self) -> int:
        """Runs that have a result."""
        return self.ok + self.diverged + self.failed


@dataclass(frozen=True, slots=True)
class Cost(Record):
    """The cost of the study so far, including earlier processes."""

    train_flops: float = 0.0
    """Training FLOPs of runs with a loss, without embeddings and head."""
    total_flops: float = 0.0
    """Training FLOPs of runs with a loss, with embeddings and head."""
    core_hours: float = 0.0
    """Hours of runs, times the cores of each."""


@dataclass(frozen=True, slots=True)
class RunStatus(Record):
    """A run that the engine has taken."""

    number: int
    structure: str
    width: int
    seed: int
    rate: float
    """Learning rate in multiples of the study's base rate."""
    step: int = 0
    steps: int | None = None
    """Number of steps; None before its first sign of life."""
    loss: float | None = None
    """Loss of the latest reported training batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus(Record):
    """The status of a study."""

    format: int = FORMAT
    study: str
    """Name of the study."""
    task: str
    state: State
    error: str | None = None
    """Why the study has failed."""
    process: Owner
    """The process that runs the study, or ran it last."""
    alive: bool | None = None
    """Whether that process is alive; None in the file itself, and if another machine would have to be asked."""
    updated: str
    """When the file was written: UTC, ISO 8601. A running study writes it at least every 10 seconds."""
    engine: str
    workers: int
    stage: StageStatus | None = None
    runs: RunCounts = RunCounts()
    running: tuple[RunStatus, ...] = ()
    runs_per_hour: float | None = None
    """Runs per hour of this process; None before its first run has ended."""
    eta_s: float | None = None
    """Expected seconds to the end; None if unknown."""
    cost: Cost = Cost()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen without another command."""
        return self.state in ENDS

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life; 0 if the clock was set back meanwhile."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds())


def read_status(folder: Path) -> StudyStatus:
    """Read the status of the study in a folder: one file, without a lock for which the study would have to wait.

    Raises:
        StudyError: the folder has no study, or its file is of another version.
    """
    path = folder / STATUS
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise StudyError(
                f"{path} has format {document['format']}: this version of einsearch reads {FORMAT}",
                remedy="use the version of einsearch that runs the study",
            )
        found = pydantic.TypeAdapter(StudyStatus).validate_json(text, strict=True)
        datetime.now(UTC) - datetime.fromisoformat(found.updated)  # a time with its zone
    except OSError as error:
        raise _no_status(folder, path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{path} is damaged: it must be a file that `einsearch rank` wrote",
            remedy="run the study's command again, which writes it again",
        ) from error
    alive = found.process.is_alive
    if alive is False and not found.has_ended:
        return replace(found, alive=False, state="killed", running=(), eta_s=None)
    return replace(found, alive=alive if not found.has_ended else False)


def _no_status(folder: Path, path: Path, error: OSError) -> StudyError:
    if not folder.is_dir():
        return StudyError(
            f"{folder} is not the folder of a study: it does not exist", remedy="give the --out of a study"
        )
    if (folder / "study.db").exists() and isinstance(error, FileNotFoundError):
        return StudyError(
            f"{folder} has no {STATUS}: its study was run by an earlier version of einsearch",
            remedy="run its command again: finished runs are kept",
        )
    return StudyError(f"cannot read {path}: {error.strerror}", remedy="give the --out of a study, such as runs/demo")
