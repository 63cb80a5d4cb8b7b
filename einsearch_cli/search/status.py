"""How far a study is: a small file in its folder that its process replaces, and anyone may read at any time."""

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
"""`timing`: all runs have ended, and steps are timed. `killed`: the process is gone without a word; only readers say so."""
ENDS: Final[tuple[State, ...]] = ("finished", "stopped", "failed", "killed")


@dataclass(frozen=True, slots=True)
class StageStatus(Record):
    """The stage that runs now."""

    name: str
    rung: int
    """0 is the cheapest."""
    rungs: int
    budget_flops: float
    """Training FLOPs of each run."""
    runs: int
    finished: int


@dataclass(frozen=True, slots=True)
class RunCounts(Record):
    """Runs of the study, those of earlier processes included."""

    expected: int | None = None
    """Runs in all, by the plan; results may make it more or fewer. None before the plan is made."""
    ok: int = 0
    diverged: int = 0
    failed: int = 0
    tried_again: int = 0
    """How often a run was given to another worker, as its worker had died; by this process."""
    running: int = 0
    """Runs that the engine has."""
    queued: int = 0
    """Runs of the stage that the engine does not have yet."""

    @property
    def ended(self) -> int:
        """Runs that have a result."""
        return self.ok + self.diverged + self.failed


@dataclass(frozen=True, slots=True)
class Cost(Record):
    """What the study has cost so far, earlier processes included."""

    train_flops: float = 0.0
    """Training FLOPs of runs with a loss; embeddings and head left out."""
    total_flops: float = 0.0
    """Training FLOPs of runs with a loss, embeddings and head included."""
    core_hours: float = 0.0
    """Time that runs took, times the cores of each."""


@dataclass(frozen=True, slots=True)
class RunStatus(Record):
    """A run that the engine has."""

    number: int
    structure: str
    width: int
    seed: int
    rate: float
    """Learning rate in multiples of the study's base rate."""
    step: int = 0
    steps: int | None = None
    """None before its first sign of life."""
    loss: float | None = None
    """Loss of the latest training batch that was reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus(Record):
    """How far a study is."""

    format: int = FORMAT
    study: str
    """Name of the study."""
    task: str
    state: State
    error: str | None = None
    """Why it has failed."""
    process: Owner
    """Who runs it, or ran it last."""
    alive: bool | None = None
    """Whether that process lives; None in the file itself, and where another machine would have to be asked."""
    updated: str
    """When the file was written: UTC, ISO 8601. While a study runs, every 10 seconds at least."""
    engine: str
    workers: int
    stage: StageStatus | None = None
    runs: RunCounts = RunCounts()
    running: tuple[RunStatus, ...] = ()
    runs_per_hour: float | None = None
    """Since this process has begun; None before its first run has ended."""
    eta_s: float | None = None
    """Seconds to the end, expected; None where nothing is known of it."""
    cost: Cost = Cost()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen without another command."""
        return self.state in ENDS

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life; 0 where the clock was set back meanwhile."""
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds())


def read_status(folder: Path) -> StudyStatus:
    """How far the study in a folder is; reads one file, and takes no lock that the study could wait for.

    Raises:
        StudyError: there is no study, or its file is of another version.
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
        datetime.now(UTC) - datetime.fromisoformat(found.updated)  # a time, with its zone
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
