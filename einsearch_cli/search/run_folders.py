"""Folders of the states of runs in progress: STUDY/checkpoints/, one folder for each run.

If workers do not see the study's folder, the states are in another folder of the same form, which the study's folder
names.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from einsearch_cli.files import write_atomically
from einsearch_cli.training.proxy.trial import Trial

CHECKPOINTS: Final = "checkpoints"
_ELSEWHERE: Final = "checkpoints.elsewhere"
"""File in the folder of a study with the path of the other folder."""


def run_folder(study: Path, trial: Trial) -> Path:
    """The folder of a run; its name is the trial's key, so a later process finds it."""
    return study / CHECKPOINTS / hashlib.sha256(trial.key.encode()).hexdigest()[:24]


def elsewhere(study: Path) -> Path | None:
    """The other folder with states of the study's runs, if there is one."""
    with suppress(OSError):
        return Path((study / _ELSEWHERE).read_text(encoding="utf-8"))
    return None


def keep_elsewhere(study: Path, folder: Path) -> None:
    """Record the other folder with states of the study's runs."""
    write_atomically(study / _ELSEWHERE, str(folder))


def all_run_folders(study: Path) -> list[Path]:
    """The folders of all runs that have states."""
    found = [folder / CHECKPOINTS for folder in _places(study)]
    return [run for folder in found if folder.is_dir() for run in folder.iterdir()]


def _places(study: Path) -> list[Path]:
    other = elsewhere(study)
    return [study] if other is None else [study, other]


def remove_run_folder(study: Path, trial: Trial) -> None:
    """Remove the states of a run that has a result; anything that cannot be removed stays."""
    for folder in _places(study):
        shutil.rmtree(run_folder(folder, trial), ignore_errors=True)


def left_behind(study: Path, ended: Iterable[Trial]) -> list[Path]:
    """The folders of runs that have ended, which their process could not remove."""
    folders = (run_folder(folder, trial) for trial in ended for folder in _places(study))
    return sorted({folder for folder in folders if folder.is_dir()})


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
