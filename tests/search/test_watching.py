"""Watchers of a study see what happens in it, and disturb nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from einsearch_cli.errors import OutputError, StudyError
from einsearch_cli.search import watching
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.estimate import StageEstimate, StudyEstimate
from einsearch_cli.search.job import TrialFinished, TrialProgress, TrialStarted, TrialTriedAgain
from einsearch_cli.search.owner import Owner, read_owner, write_owner
from einsearch_cli.search.plan import PlannedStage
from einsearch_cli.search.stages import StageStarted
from einsearch_cli.search.status import STATUS, Cost, RunCounts, read_status
from einsearch_cli.search.watching import EVENTS, StudyWatch
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
TRIALS = [Trial(parse_structure("monarch"), 16, seed, 0, 1e9, rate=0.5) for seed in range(4)]
ESTIMATE = StudyEstimate(
    (StageEstimate(PlannedStage("seeds", 0, 1e9, 1, 4.0), 40.0),), EqualNetworks(lambda *place: place), (), 2.0
)


def ok(trial: Trial, elapsed_s: float = 1800.0) -> TrialResult:
    return TrialResult(trial, "ok", 0.5, 1, 1e9, 2e9, 10, elapsed_s, ())


def watch(folder: Path, results: tuple[TrialResult, ...] = ()) -> StudyWatch:
    return StudyWatch(folder, "three", "teacher", "local", 2, results)


def written(watch: StudyWatch) -> dict[str, Any]:
    """The status that the thread would write now."""
    found: dict[str, Any] = json.loads(json.dumps(watch._snapshot().to_json()))
    validate("status", found)
    return found


def validate(name: str, document: Any) -> None:
    jsonschema.validate(document, json.loads((DOCS / f"{name}.schema.json").read_text()))


def events(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / EVENTS).read_text().splitlines():
        document = json.loads(line)
        validate("events", document)
        yield document


def test_the_status_follows_every_event(tmp_path: Path) -> None:
    earlier = ok(replace(TRIALS[0], width=32))
    with watch(tmp_path, (earlier,)) as watcher:
        assert (written(watcher)["state"], written(watcher)["runs"]["ok"]) == ("preparing", 1)
        watcher.plan(ESTIMATE)
        watcher(StageStarted("seeds", 0, 1, 1e9, (TRIALS[0].structure,), 5, 1))
        assert written(watcher)["eta_s"] == pytest.approx(42)
        for number in range(3):
            watcher(TrialStarted(number, TRIALS[number]))
        watcher(TrialProgress(0, TRIALS[0], 3, 7, 2.5, ()))
        watcher(TrialFinished(1, ok(TRIALS[1])))
        watcher(TrialTriedAgain(2, TRIALS[2], "the worker died", 1))
        found = written(watcher)
        assert found["stage"] == {
            "name": "seeds", "rung": 0, "rungs": 1, "budget_flops": 1e9, "runs": 5, "finished": 2
        }  # fmt: skip
        assert found["runs"] == {
            "expected": 4, "ok": 2, "diverged": 0, "failed": 0, "tried_again": 1, "running": 1, "queued": 2
        }  # fmt: skip
        [run] = found["running"]
        assert (run["number"], run["seed"], run["rate"], run["step"], run["steps"], run["loss"]) == (
            0,
            0,
            0.5,
            3,
            7,
            2.5,
        )
        assert found["runs_per_hour"] > 0
        assert found["cost"] == {"train_flops": 2e9, "total_flops": 4e9, "core_hours": 1.0}
        watcher(TrialFinished(0, failed_result(TRIALS[0], "diverged", "nan", 1.0)))
        watcher(TrialFinished(3, failed_result(TRIALS[3], "failed", "boom", 1.0), log=tmp_path / "logs" / "run-3.log"))
        assert {name: written(watcher)["runs"][name] for name in ("ok", "diverged", "failed")} == {
            "ok": 2, "diverged": 1, "failed": 1
        }  # fmt: skip
        watcher.timing()
        assert written(watcher)["state"] == "timing"
    ended = read_status(tmp_path)
    assert (ended.state, ended.running, ended.eta_s, ended.alive) == ("finished", (), None, False)
    told = list(events(tmp_path))
    assert [event["event"] for event in told] == [
        "study_started", "study_planned", "stage_started", *["run_started"] * 3, "run_finished", "run_tried_again",
        "run_finished", "run_finished", "study_ended",
    ]  # fmt: skip
    assert [event.get("log") for event in told if event["event"] == "run_finished"] == [None, None, "logs/run-3.log"]


def test_a_run_done_again_counts_once(tmp_path: Path) -> None:
    with watch(tmp_path, (failed_result(TRIALS[0], "failed", "boom", 3600.0),)) as watcher:
        watcher(TrialFinished(0, ok(TRIALS[0])))
        found = written(watcher)
    assert (found["runs"]["ok"], found["runs"]["failed"], found["cost"]["core_hours"]) == (1, 0, 0.5)


def test_the_thread_writes_what_changes_and_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(watching, "LEAST_INTERVAL_S", 0.0)
    with watch(tmp_path) as watcher:
        watcher(TrialStarted(0, TRIALS[0]))
        deadline_s = time.monotonic() + 10
        while read_status(tmp_path).runs.running != 1 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert read_status(tmp_path).runs.running == 1
        (tmp_path / STATUS).unlink()
        while not (tmp_path / STATUS).exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert (tmp_path / STATUS).exists()


@pytest.mark.parametrize(
    ("cause", "state", "error"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (StudyError("no room", remedy="make some"), "failed", "no room"),
        (ValueError("odd"), "failed", "ValueError: odd"),
    ],
)
def test_the_end_is_reported(tmp_path: Path, cause: BaseException, state: str, error: str | None) -> None:
    with pytest.raises(type(cause)), watch(tmp_path):
        raise cause
    found = read_status(tmp_path)
    assert (found.state, found.error) == (state, error)
    assert list(events(tmp_path))[-1]["state"] == state


def test_a_half_line_of_a_killed_process_is_ended(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text('{"event": "run_fin')
    with watch(tmp_path):
        pass
    lines = (tmp_path / EVENTS).read_text().splitlines()
    assert lines[0] == '{"event": "run_fin'
    assert [json.loads(line)["event"] for line in lines[1:]] == ["study_started", "study_ended"]


def test_a_status_that_cannot_be_written_ends_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()

    def go_on() -> None:
        with watch(folder) as watcher:
            (folder / STATUS).unlink()
            (folder / STATUS).mkdir()
            deadline_s = time.monotonic() + 10
            while time.monotonic() < deadline_s:
                watcher(TrialStarted(0, TRIALS[0]))
                time.sleep(0.01)

    with pytest.raises(OutputError, match=STATUS):
        go_on()
    *_, last = events(folder)
    assert (last["event"], last["state"]) == ("study_ended", "failed")


def test_a_process_that_is_gone_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with watch(tmp_path) as watcher:
        watcher.plan(ESTIMATE)
        running = watcher._snapshot()
    for owner, state, alive in (
        (Owner.here(), "running", True),
        (replace(Owner.here(), pid=process.pid), "killed", False),
        (replace(Owner.here(), host="elsewhere"), "running", None),
    ):
        (tmp_path / STATUS).write_text(json.dumps(replace(running, process=owner).to_json()))
        assert (read_status(tmp_path).state, read_status(tmp_path).alive) == (state, alive)


def test_a_process_is_distinguished_from_a_later_one_with_its_number() -> None:
    here = Owner.here()
    assert here.is_alive
    assert replace(here, ticks=(here.ticks or 0) + 1).is_alive is False
    assert replace(here, ticks=None).is_alive


def test_the_owner_of_a_folder(tmp_path: Path) -> None:
    assert read_owner(tmp_path) is None
    write_owner(tmp_path)
    assert read_owner(tmp_path) == replace(Owner.here(), since=read_owner(tmp_path).since)  # type: ignore[union-attr]
    (tmp_path / ".owner").write_text(json.dumps(replace(Owner.here(), ticks=1).to_json()))
    assert read_owner(tmp_path) is None
    for damaged in ("{", '{"pid": "x", "host": "h", "since": "s"}'):
        (tmp_path / ".owner").write_text(damaged)
        assert read_owner(tmp_path) is None
    assert not replace(Owner.here(), pid=2**70).is_alive, "a number that no process can have"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no status.json: its study was run by an earlier version of einsearch"),
        ("", "is damaged"),
        ("[1]", "is damaged"),
        ({"process": {"pid": "x", "host": "h", "since": "s"}}, "is damaged"),
        ({"updated": "yesterday"}, "is damaged"),
        ({"updated": "2026-11-30T10:00:00"}, "is damaged"),
        ({"runs": {"ok": "many"}}, "is damaged"),
        ({"state": "weird"}, "is damaged"),
        ('{"format": 99}', "has format 99: this version of einsearch reads 1"),
    ],
)
def test_a_file_that_is_not_a_status_is_refused(
    tmp_path: Path, content: str | dict[str, object] | None, says: str
) -> None:
    """Files with a single wrong value are refused too."""
    (tmp_path / "study.db").touch()
    if isinstance(content, dict):
        with watch(tmp_path):
            pass
        content = json.dumps(json.loads((tmp_path / STATUS).read_text()) | content)
    if content is not None:
        (tmp_path / STATUS).write_text(content)
    with pytest.raises(StudyError, match=says):
        read_status(tmp_path)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(StudyError, match="does not exist"):
        read_status(Path("/nowhere/at/all"))


def test_a_clock_that_is_set_back_gives_no_negative_silence(tmp_path: Path) -> None:
    with watch(tmp_path):
        pass
    found = read_status(tmp_path)
    assert 0 <= found.silent_s < 60
    assert replace(found, updated="2999-01-01T00:00:00Z").silent_s == 0


def test_counts_and_cost_have_defaults_of_zero() -> None:
    assert (RunCounts(ok=1, diverged=2, failed=3).ended, Cost().core_hours) == (6, 0.0)


def test_reading_a_status_leaves_the_database_alone(tmp_path: Path) -> None:
    with watch(tmp_path):
        pass
    before = {path.name: path.stat().st_atime_ns for path in tmp_path.iterdir()}
    os.mkfifo(tmp_path / "study.db")  # opening it would wait for ever
    read_status(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*before, "study.db"}
