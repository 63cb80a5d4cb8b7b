"""Starts studies as a user does, disturbs them, and counts the results of their runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from einsearch_cli.search.status import StudyStatus, read_status

ROOT = Path(__file__).parents[2]
UNRULY = ROOT / "tests/search/unruly.py"
PATIENCE_S = 280.0

STUDY: dict[str, Any] = {
    "task": "unruly",
    "task_settings": {"teacher_width": 16, "pool_size": 2048, "validation_size": 128, "batch_size": 64},
    "structures": ["monarch"],
    "widths": [16, 32],
    "seeds": 2,
    "budget_flops": 3e8,
    "halving": {"rungs": 1},
    "rates": "fixed",
    "confirm": 0,
}
"""Eight runs, of about half a second each: two structures (dense is one), two widths, two seeds."""
RUNS = 8


@dataclass
class Driven:
    """A study in its own folder, driven by one process after another."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[Path, ...] = (UNRULY,)

    def __post_init__(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        task_settings = STUDY["task_settings"] | self.settings.pop("task_settings", {})
        text = json.dumps(STUDY | {"name": "study"} | self.settings | {"task_settings": task_settings})
        self.spec = self.folder.with_suffix(".yaml")
        self.spec.write_text(text)
        self.errors = self.folder.with_suffix(".err")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a process that runs the study, in a new session; its messages go to `errors`."""
        command = [sys.executable, "-m", "einsearch_cli", "rank", str(self.spec), "--out", str(self.folder), *words]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "EINSEARCH_PLUGINS": os.pathsep.join(map(str, self.plugins)),
            "XDG_CACHE_HOME": str(self.folder.parent / "cache"),
        }
        with self.errors.open("ab") as errors:
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )

    def run(self, *words: str, code: int = 0) -> str:
        """Run the study to its end; returns all its messages."""
        process = self.start(*words)
        try:
            found = process.wait(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert found == code, self.said
        return self.said

    @property
    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    @property
    def status(self) -> StudyStatus | None:
        with suppress(Exception):
            return read_status(self.folder)
        return None

    def wait_for(self, process: subprocess.Popen[bytes], condition: Callable[[StudyStatus], bool]) -> StudyStatus:
        """Wait until the study is as far as that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            status = self.status
            if status is not None and status.process.pid == process.pid and condition(status):
                return status
            assert process.poll() is None, self.said
            assert time.monotonic() < deadline_s, self.said
            time.sleep(0.02)

    def move(self, to: Path) -> None:
        """Move the study to another folder."""
        shutil.move(self.folder, to)
        self.folder = to

    def ranking(self) -> list[dict[str, Any]]:
        """The study's ranking, without times."""
        found = json.loads((self.folder / "results.json").read_text())["ranking"]
        return [
            {key: value for key, value in entry.items() if not key.startswith("seconds") and key != "reversed_in"}
            for entry in found
        ]

    def losses(self) -> dict[str, float]:
        """The loss of every run, to the last bit, by the run's description."""
        runs = json.loads((self.folder / "results.json").read_text())["results"]
        return {f"{run['structure']} {run['width']} {run['seed']} {run['rung']}": run["loss"] for run in runs}

    def assert_every_run_once(self, runs: int = RUNS) -> None:
        """No run is lost, and none was done twice, as Optuna itself reads the database."""
        counts = Counter(finished_runs(self.folder))
        lost, doubled = runs - len(counts), sum(counts.values()) - len(counts)
        assert (lost, doubled) == (0, 0), counts


def finished_runs(folder: Path) -> Counter[str]:
    """How often each trial was finished, read from the database by Optuna itself."""
    study = optuna.load_study(study_name="einsearch", storage=f"sqlite:///{folder / 'study.db'}")
    return Counter(
        f"{trial.user_attrs['structure']} {trial.params}"
        for trial in study.trials
        if trial.state == optuna.trial.TrialState.COMPLETE
    )


def workers_of(pid: int) -> list[int]:
    """The worker processes of a study's process, youngest last: its fork server is their parent."""
    parents = {}
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if "multiprocessing.forkserver" in (path / "cmdline").read_text():
                parents[int(path.name)] = parent_of(int(path.name))
    return sorted(worker for worker, server in parents.items() if parents.get(server) == pid)


def parent_of(pid: int) -> int:
    """The parent of a running process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill only the process of a study (kill -9), and check that its workers end within moments."""
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    deadline_s = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline_s, "workers outlived their parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def send(pid: int, sign: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, sign)


def is_training(status: StudyStatus) -> bool:
    """Whether a run has made a step."""
    return any(run.step for run in status.running)
