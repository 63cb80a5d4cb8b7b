"""Where the states of runs in progress lie in the folder of a study: STUDY/checkpoints/, one folder for each run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from einsearch_cli.training.proxy.trial import Trial

CHECKPOINTS: Final = "checkpoints"


def run_folder(study: Path, trial: Trial) -> Path:
    """The folder of a run; it is named by the trial's key, so a later process finds it."""
    return study / CHECKPOINTS / hashlib.sha256(trial.key.encode()).hexdigest()[:24]


def remove_run_folder(study: Path, trial: Trial) -> None:
    """The run has a result: its states are of no use any more. What cannot be removed stays."""
    shutil.rmtree(run_folder(study, trial), ignore_errors=True)


def left_behind(study: Path, ended: Iterable[Trial]) -> list[Path]:
    """The folders of runs that have ended, which their process could not remove."""
    folders = (run_folder(study, trial) for trial in ended)
    return sorted({folder for folder in folders if folder.is_dir()})


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
