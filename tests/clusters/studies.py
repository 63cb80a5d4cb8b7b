"""One small study, run by the command with any engine."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

STUDY = """\
task_settings: {teacher_width: 16, pool_size: 2048, validation_size: 256, batch_size: 64}
structures: [monarch]
widths: [16, 32]
seeds: 2
rates: fixed
budget_flops: 1.5e8
halving: {rungs: 1}
confirm: 0
controls: false
"""


def start(folder: Path, *words: str, own_session: bool = False) -> subprocess.Popen[str]:
    """`einsearch rank` of the study, in this folder; its spec lies next to it."""
    path = folder.with_name("study.yaml")
    path.write_text(STUDY)
    command = [sys.executable, "-m", "einsearch_cli", "rank", str(path), "--out", str(folder), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ, start_new_session=own_session)


def results(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The final runs of a study, without the seconds that they took."""
    process = start(folder, *words)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    return stored(folder)


def stored(folder: Path) -> list[dict[str, Any]]:
    """The runs of a folder in a fixed order."""
    runs = json.loads((folder / "results.json").read_text())["results"]
    kept = [{key: value for key, value in run.items() if key != "elapsed_s"} for run in runs]
    return sorted(kept, key=lambda run: json.dumps(run, sort_keys=True))


def finished(folder: Path) -> int:
    """How many trials the database holds as finished, while another process writes it."""
    database = folder / "study.db"
    if not database.exists():
        return 0
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        return int(opened.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    return 0


def finished_keys(folder: Path) -> list[tuple[Any, ...]]:
    """Parameters and structures of all trials that the database holds as finished."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [(*sorted(trial.params.items()), trial.user_attrs["structure"]) for trial in trials]
