"""`status` and `watch` while a study runs in another process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.cli.status import status_lines
from einsearch_cli.files import write_atomically
from einsearch_cli.search.owner import Owner
from einsearch_cli.search.status import STATUS, Cost, RunCounts, RunStatus, StageStatus, StudyStatus
from tests.cli.terminal import at_terminal

RUNNING = StudyStatus(
    study="three",
    task="teacher",
    state="running",
    process=Owner.here(),
    updated="2026-11-30T08:00:00Z",
    engine="local",
    workers=2,
    stage=StageStatus("seeds", 0, 2, 2.5e8, 16, 3),
    runs=RunCounts(28, 3, 1, 0, 2, 2, 11),
    running=(
        RunStatus(4, "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2", 16, 0, 1.0, 12, 1387, 0.5),
        RunStatus(5, "XA^1 YA^1", 32, 1, 2.0),
    ),
    runs_per_hour=1510.6,
    eta_s=142.5,
    cost=Cost(7.5e8, 8e8, 0.25),
)


def write(folder: Path, status: StudyStatus) -> None:
    write_atomically(folder / STATUS, json.dumps(status.to_json()))


def test_the_status_for_people(einsearch: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    write(tmp_path, RUNNING)
    found = einsearch("status", tmp_path)
    assert found.code == 0
    assert found.out.splitlines() == [
        "three: running; 4 of about 28 runs have ended (1 diverged, 2 tried again)",
        "rung 1/2, seeds: 3 of 16 runs, 2.5e+08 FLOPs each",
        "1,511 runs an hour, about 2 min 22 s left",
        "so far 7.5e+08 training FLOPs, 0.25 core-hours",
        "2 workers, engine local: 2 running, 11 queued",
        "  monarch, width 16, seed 0: step 12 of 1,387, loss 0.5",
        "  dense, width 32, seed 1, rate x 2: starting",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "finished"}, ["three: finished; 4 runs have ended (1 diverged, 2 tried again)"]),
        ({"state": "failed", "error": "no room"}, ["error: no room", "run the same command again to go on"]),
        ({"state": "stopped"}, ["run the same command again to go on: finished runs are kept"]),
        ({"process": replace(Owner.here(), ticks=1)}, ["three: killed", "is gone without a word", "to go on"]),
        ({"process": replace(Owner.here(), host="far")}, ["on far, since", "gave its last sign of life"]),
    ],
)
def test_the_status_of_studies_that_do_not_run(
    changes: dict[str, object], says: list[str], tmp_path: Path, einsearch
) -> None:
    write(tmp_path, replace(RUNNING, **changes))  # type: ignore[arg-type]
    text = einsearch("status", tmp_path).out
    for words in says:
        assert words in text


def test_the_status_for_programs_is_the_file_with_who_lives(einsearch: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    write(tmp_path, RUNNING)
    found = json.loads(einsearch("status", tmp_path, "--format", "json").out)
    assert found == RUNNING.to_json() | {"alive": True}


def test_a_folder_without_a_study_is_refused(einsearch: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    for command in ("status", "watch"):
        found = einsearch(command, tmp_path / "nothing")
        assert found.code == 2
        assert "is not the folder of a study: it does not exist" in found.err


def test_a_narrow_terminal_shows_all_of_it(tmp_path: Path) -> None:
    write(tmp_path, replace(RUNNING, process=Owner(os.getppid(), "far", "2026-11-30T08:00:00Z")))
    end = threading.Timer(3.0, write, (tmp_path, replace(RUNNING, state="finished")))
    end.start()
    code, shown = at_terminal(["watch", str(tmp_path)], 30, tmp_path)
    end.join()
    assert code == 0, shown
    assert "three: finished;" in shown
    assert "about 2 min 22 s left" in " ".join(shown.split())
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.replace("\r", "\n")).splitlines()
    assert max(map(len, lines)) <= 30
    assert f"process {os.getppid()} on far, since" in " ".join(lines)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    text = (
        "task: teacher\ntask_settings: {teacher_width: 16, pool_size: 4096, validation_size: 256, batch_size: 64}\n"
        "structures: [monarch]\nwidths: [16, 32]\nbudget_flops: 1e12\nhalving: {rungs: 1}\nrates: fixed\nconfirm: 0\n"
    )
    (tmp_path / "study.yaml").write_text(text)
    command = [sys.executable, "-m", "einsearch_cli", "rank", "study.yaml", "--out", "out", "--workers", "1"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, text=True)
    yield process
    process.kill()
    process.wait()


def test_watching_a_study_leaves_it_alone(study: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline_s = time.monotonic() + 120
    while not _trains(tmp_path / "out"):
        assert study.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "einsearch_cli", "watch", "out"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    assert watcher.stdout.readline().startswith("study: running; 0 of about ")
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(timeout=20) == 130
    watcher.stdout.close()
    assert study.poll() is None
    second = subprocess.run(study.args, cwd=tmp_path, capture_output=True, text=True, check=False)  # type: ignore[arg-type]
    assert second.returncode == 2
    assert f"is in use by process {study.pid} on " in second.stderr
    study.send_signal(signal.SIGTERM)
    assert study.wait(timeout=30) == 130
    assert json.loads((tmp_path / "out" / STATUS).read_text())["state"] == "stopped"


def _trains(folder: Path) -> bool:
    try:
        return any(run["steps"] for run in json.loads((folder / STATUS).read_text())["running"])
    except OSError:
        return False


def test_every_state_has_words() -> None:
    assert status_lines(replace(RUNNING, state="preparing"))[0].startswith("three: preparing its data")
    assert status_lines(replace(RUNNING, state="timing"))[0].startswith("three: timing steps; 4 of about 28")
