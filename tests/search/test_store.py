from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from einsearch_cli.errors import EinsearchError, OutputError, StudyError
from einsearch_cli.search.store import DATABASE, RESULTS, StudyStore
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

STRUCTURES = [parse_structure("dense"), parse_structure("monarch")]
TRIALS = [Trial(s, width, seed, 0, 1e9) for s in STRUCTURES for width in (64, 128) for seed in (0, 1)]


def finished(trial: Trial, loss: float) -> TrialResult:
    return TrialResult(trial, "ok", loss, 1, 1e9, 2e9, 10, 0.1, ((1e9, loss),))


def open_store(folder: Path, fingerprint: str = "f") -> StudyStore:
    return StudyStore(folder, fingerprint)


def test_every_trial_is_given_out_once_and_its_result_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS)
        store.add(TRIALS)
        given = []
        while (taken := store.take()) is not None:
            given.append(taken[1])
            store.finish(taken[0], finished(taken[1], loss=taken[0] / 8))
    assert given == TRIALS
    with open_store(tmp_path) as store:
        store.add(TRIALS)
        assert store.take() is None
        assert store.results() == [finished(trial, n / 8) for n, trial in enumerate(TRIALS)]


def test_a_trial_left_running_is_run_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS)
        first = store.take()
    assert first is not None
    with open_store(tmp_path) as store:
        assert store.results() == []
        store.add(TRIALS)
        remaining = [taken[1] for taken in iter(store.take, None)]
    assert remaining == TRIALS


def test_a_kill_while_a_trial_is_taken_does_not_mix_up_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS)
        monkeypatch.setattr(store._study, "ask", lambda **_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            store.take()
    with open_store(tmp_path) as store:
        store.add(TRIALS)
        for number, trial in iter(store.take, None):
            store.finish(number, finished(trial, 0.5))
        completed = [t for t in store._study.get_trials() if t.state == TrialState.COMPLETE]
    assert [(t.params["width"], t.params["seed"]) for t in completed] == [(t.width, t.seed) for t in TRIALS]
    assert [t.user_attrs["structure"] for t in completed] == [str(t.structure) for t in TRIALS]


def test_a_result_written_just_before_a_kill_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS[:1])
        taken = store.take()
        assert taken is not None
        monkeypatch.setattr(store, "_tell", lambda *_: None)  # killed between the two writes
        store.finish(taken[0], finished(taken[1], 0.5))
    with open_store(tmp_path) as store:
        store.add(TRIALS[:1])
        assert store.take() is None
        assert [result.loss for result in store.results()] == [0.5]


def test_crashed_trials_are_retried_and_diverged_ones_are_not(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS[:2])
        for status in ("failed", "diverged"):
            taken = store.take()
            assert taken is not None
            store.finish(taken[0], failed_result(taken[1], status, "boom", 0.1))  # type: ignore[arg-type]
        assert store.take() is None
        assert [result.status for result in store.results()] == ["failed", "diverged"]
    with open_store(tmp_path) as store:
        store.add(TRIALS[:2])
        assert [taken[1] for taken in iter(store.take, None)] == TRIALS[:1]


def test_a_retried_trial_has_one_result_the_latest(tmp_path: Path) -> None:
    for result in (failed_result(TRIALS[0], "failed", "boom", 0.1), finished(TRIALS[0], 0.25)):
        with open_store(tmp_path) as store:
            store.add(TRIALS[:1])
            taken = store.take()
            assert taken is not None
            store.finish(taken[0], result)
    with open_store(tmp_path) as store:
        store.add(TRIALS[:1])
        assert store.take() is None
        assert store.results() == [finished(TRIALS[0], 0.25)]


def test_a_trial_on_another_rung_with_the_same_budget_is_the_same(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS[:1])
        number, trial = next(iter(store.take, None))
        store.finish(number, finished(trial, 0.25))
        again, faster = replace(trial, rung=2), replace(trial, rate=2.0)
        store.add([again, faster, replace(trial, budget_flops=2e9)])
        assert store.waiting() == 2
        assert store.result_of(again) == finished(again, 0.25)
        assert store.result_of(faster) is None


def test_a_crashed_trial_is_not_done_again_by_the_same_process(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS[:1])
        number, trial = next(iter(store.take, None))
        store.finish(number, failed_result(trial, "failed", "boom", 0.1))
        store.add([trial])
        assert store.waiting() == 0


def test_decisions_are_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.noted("plan") is None
        store.note("plan", {"budget_flops": 1e9})
    with open_store(tmp_path) as store:
        assert store.noted("plan") == {"budget_flops": 1e9}


def test_the_database_stays_in_its_folder_whatever_that_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "odd?x#y %20"
    with open_store(folder) as store:
        store.add(TRIALS[:1])
        assert store.take() is not None
    assert {path.name for path in folder.iterdir()} == {DATABASE, ".lock"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_reading_the_queue_costs_the_same_however_long_it_is(tmp_path: Path) -> None:
    many = [Trial(STRUCTURES[0], width, 0, 0, 1e9) for width in range(1, 5001)]
    with open_store(tmp_path) as store:
        store.add(many)
        started_s = time.perf_counter()
        taken = store.take()
        assert taken is not None
        store.finish(taken[0], finished(taken[1], 0.5))
        assert time.perf_counter() - started_s < 5
        assert store.waiting() == 4999


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with open_store(tmp_path), pytest.raises(StudyError, match="is in use"), open_store(tmp_path):
        pass


def test_another_study_is_not_mixed_in(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    with pytest.raises(StudyError, match="holds another study"), open_store(tmp_path, "g"):
        pass
    with open_store(tmp_path):
        pass


@pytest.mark.parametrize("damage", ["garbage", "truncated", "foreign", "content"])
def test_a_damaged_database_is_named(tmp_path: Path, damage: str) -> None:
    with open_store(tmp_path) as store:
        store.add(TRIALS)
    path = tmp_path / DATABASE
    if damage == "content":
        with open_store(tmp_path) as store:
            store.add(TRIALS[:1])
            taken = store.take()
            assert taken is not None
            store.finish(taken[0], finished(taken[1], 0.5))
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE trial_user_attributes SET value_json = '\"{bad\"'")
        connection.close()
    elif damage == "garbage":
        path.write_bytes(b"not a database" * 500)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE studies (colour INTEGER)")
        connection.close()
    with pytest.raises(StudyError) as caught, open_store(tmp_path):
        pass
    assert str(path) in caught.value.problem
    assert "restore it from a copy" in caught.value.remedy


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to the study folder"), open_store(tmp_path / "file" / "x"):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, enough for an empty study and a few runs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # SQLite may have it open


def _fill(store: StudyStore) -> None:
    for seed in range(50):
        store.add([replace(TRIALS[0], seed=100 + seed)])
        taken = store.take()
        assert taken is not None
        store.finish(taken[0], failed_result(taken[1], "failed", "x", 0.0))


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    with open_store(small_disk) as store:
        store.add(TRIALS)
        taken = store.take()
        assert taken is not None
        store.finish(taken[0], finished(taken[1], 0.5))
        with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1024))
        with pytest.raises(OutputError) as caught:
            _fill(store)
    assert caught.value.problem == f"cannot write the study database {small_disk / DATABASE}: No space left on device"
    assert caught.value.remedy == "make room and run the same command again: finished runs are kept"
    (small_disk / "filler").unlink()
    with open_store(small_disk) as store:
        assert [result.loss for result in store.results() if result.status == "ok"] == [0.5]


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        ("SQLITE_FULL", "No space left on device", "make room and run the same command again: finished runs are kept"),
        ("SQLITE_READONLY_DBMOVED", "Permission denied", "make it writable"),
        ("SQLITE_IOERR_WRITE", "Input/output error", "check the disk"),
        ("SQLITE_BUSY", "is in use by another program", "close it"),
    ],
)
def test_what_sqlite_says_of_the_system_is_not_blamed_on_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str, remedy: str
) -> None:
    refusal = sqlite3.OperationalError("it did not work")
    refusal.sqlite_errorname = code

    def refuse(*_: object, **__: object) -> None:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, refusal)

    with open_store(tmp_path) as store:
        store.add(TRIALS)
        monkeypatch.setattr(optuna.Study, "enqueue_trial", refuse)
        with pytest.raises(EinsearchError) as caught:
            store.take()
    assert reason in caught.value.problem
    assert remedy in caught.value.remedy
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_results_without_their_database_are_not_replaced(tmp_path: Path, damage: str) -> None:
    if damage == "empty":
        (tmp_path / DATABASE).touch()
    with open_store(tmp_path):  # nothing is there: a new study
        pass
    (tmp_path / RESULTS).write_text("{}")
    with open_store(tmp_path):
        pass
    (tmp_path / DATABASE).unlink()
    if damage == "empty":
        (tmp_path / DATABASE).touch()
    with pytest.raises(StudyError, match=rf"study.db is {damage} and results.json next to it holds results"):
        open_store(tmp_path).__enter__()


def test_another_study_says_what_differs(tmp_path: Path) -> None:
    before = {"seeds": 3, "widths": [64, 128], "optimizer": {"beta1": 0.9}, "candidates": ["a", "b"]}
    now = {**before, "seeds": 5, "optimizer": {"beta1": 0.8}, "candidates": ["a", "c"]}
    with StudyStore(tmp_path, "f", before):
        pass
    with pytest.raises(StudyError) as caught, StudyStore(tmp_path, "g", now):
        pass
    assert caught.value.problem == (
        f'{tmp_path} holds another study: candidates has lost "b" and gained "c"; optimizer.beta1 was 0.9 and is 0.8; '
        "seeds was 3 and is 5"
    )


def test_a_study_of_a_former_format_of_its_task_is_refused_by_name(tmp_path: Path) -> None:
    """There was no number before there was a second format."""
    before = {"task": "text", "task_settings": {"path": None, "block_size": 128}}
    now = {"task": "text", "task_settings": {"context": 128}, "task_format": 2}
    with StudyStore(tmp_path, "f", before):
        pass
    with pytest.raises(StudyError) as caught, StudyStore(tmp_path, "g", now):
        pass
    assert str(caught.value) == (
        f"{tmp_path} holds a study of the text task in format 1: this version of einsearch has format 2, "
        "whose losses cannot be compared with it\n"
        "try: give another --out to begin again; results.json and report.html of that study stay as they are"
    )
    with pytest.raises(StudyError, match='holds another study: task was "text" and is "sine"'):
        StudyStore(tmp_path, "g", {**before, "task": "sine"}).__enter__()


def test_a_pack_holds_trials_that_differ_in_seed_and_rate_alone(tmp_path: Path) -> None:
    first = TRIALS[0]
    other = replace(first, width=32)
    alike = [replace(first, seed=1), replace(first, seed=2, rate=0.5), replace(first, seed=3)]
    with open_store(tmp_path) as store:
        store.add([first, other, alike[0], replace(first, balanced=False), *alike[1:]])
        assert [taken for _, taken in store.take_pack(3)] == [first, *alike[:2]]
        assert [[taken for _, taken in store.take_pack(8)] for _ in range(4)] == [
            [other],
            [replace(first, balanced=False)],
            [alike[2]],
            [],
        ]
