"""The folder between a study and its workers: every pack has one owner, and nothing is lost with a worker."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines.slurm import SlurmWorkers
from einsearch_cli.search.engines.slurm.shared_folder import LeftBehind, StudySide, WorkerSide
from einsearch_cli.search.job import Job, JobEvent, Pack, TrialFinished, TrialNote, TrialProgress
from einsearch_cli.search.run_folders import elsewhere, left_behind, remove_run_folder, run_folder
from einsearch_cli.search.shipping import Shipment
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.proxy.trial import TrialResult, failed_result
from tests.search.engine_contract import SETUP, job

SHIPMENT = Shipment(SETUP, (), (), {"torch": "1"})


@pytest.fixture
def study(tmp_path: Path) -> StudySide:
    return StudySide(tmp_path / "shared", SHIPMENT)


def worker(study: StudySide, name: str) -> WorkerSide:
    found = WorkerSide(study.root, name)
    found.beat()
    return found


def result(number: int) -> TrialResult:
    return TrialResult(job(number).trial, "ok", 0.5, 1, 2.0, 3.0, 4, 5.0, ((1.0, 0.75),))


def test_shipments_and_events_arrive_as_they_were_sent(study: StudySide) -> None:
    first = worker(study, "first")
    assert first.shipment() == SHIPMENT
    study.put(1, [job(0), job(1)])
    assert first.take() == (job(0), job(1))
    routing = (RoutingStatistics("blocks.0", (0.25, 0.75), 0.5, 0.6, 0),)
    first.tell(TrialProgress(0, job(0).trial, 3, 9, 0.25, routing))
    first.beat()
    assert list(study.events()) == [(1, TrialProgress(0, job(0).trial, 3, 9, 0.25, routing))]
    assert list(study.events()) == [], "what has not changed is not told again"
    note = TrialNote(1, job(1).trial, "a checkpoint is damaged")
    first.tell(note)
    assert list(study.events()) == [(1, note)]
    ends = [
        TrialFinished(0, result(0)),
        TrialFinished(1, failed_result(job(1).trial, "failed", "died", 1.0), True, "last words"),
    ]
    for end in ends:
        first.tell(end)
    first.beat()
    assert list(study.events()) == [(1, end) for end in ends]
    assert os.listdir(study.root / "taken") == []


def test_a_pack_is_taken_once_and_the_first_one_first(study: StudySide) -> None:
    for number in (9, 10, 11):
        study.put(number, [job(number)])
    sides = [worker(study, "first"), worker(study, "second")]
    assert [side.take()[0].number for side in (*sides, sides[0])] == [9, 10, 11]
    assert sides[1].take() == ()


def test_a_pack_that_another_worker_has_just_taken_is_skipped(
    study: StudySide, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        study.put(number, [job(number)])
    slow, fast = worker(study, "slow"), worker(study, "fast")
    listed = os.listdir

    def after_another(folder: Path) -> list[str]:
        names = listed(folder)
        monkeypatch.setattr("os.listdir", listed)
        assert fast.take() == (job(1),)
        return names

    monkeypatch.setattr("os.listdir", after_another)
    assert slow.take() == (job(2),)


def test_unfinished_jobs_of_a_preempted_worker_go_to_another(study: StudySide) -> None:
    first, second = worker(study, "first"), worker(study, "second")
    study.put(1, [job(0), job(1)])
    first.take()
    first.tell(TrialFinished(0, result(0)))
    first.give_back()
    assert second.take() == (job(1),)
    second.tell(TrialFinished(1, result(1)))
    assert [(pack, event.number) for pack, event in study.events()] == [(1, 0), (1, 1)]


def test_a_silent_worker_loses_its_packs_and_cannot_give_them_back(
    study: StudySide, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    alive, silent = worker(study, "alive"), worker(study, "silent")
    for number, side in ((1, alive), (2, silent)):
        study.put(number, [job(number)])
        side.take()
    assert study.lost(5.0) == []
    now_s = 104.0
    alive.beat()
    assert study.lost(5.0) == []
    now_s = 106.0
    assert study.lost(5.0) == [2]
    assert study.lost(5.0) == [], "it is lost once"
    silent.give_back()
    assert alive.take() == (), "the study gives it to others itself"


def test_workers_leave_when_the_study_has_ended_is_silent_or_is_gone(
    study: StudySide, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    side = worker(study, "first")
    assert not side.is_over(5.0)
    now_s = 104.0
    study.beat()
    assert not side.is_over(5.0)
    now_s = 108.0
    assert not side.is_over(5.0)
    now_s = 110.0
    assert side.is_over(5.0)
    study.beat()
    assert not side.is_over(5.0)
    study.stop()
    assert side.is_over(5.0)
    assert WorkerSide(study.root / "gone", "first").is_over(5.0)


def test_a_worker_that_cannot_work_ends_the_study(study: StudySide) -> None:
    study.refuse()
    worker(study, "first").refuse(StudyError("another torch", remedy="install this one"))
    with pytest.raises(StudyError, match="another torch") as caught:
        study.refuse()
    assert caught.value.remedy == "install this one"


def test_the_first_end_of_a_job_counts_and_unknown_jobs_are_skipped() -> None:
    """Two workers may have trained a pack, if one of them counted as dead."""

    class Side:
        def put(self, number: int, pack: Pack) -> None:
            assert (number, pack) == (1, (job(0), job(1)))

        def refuse(self) -> None: ...

        def events(self) -> list[tuple[int, JobEvent]]:
            first, other = TrialFinished(0, result(0)), TrialFinished(1, result(1))
            late = TrialProgress(0, job(0).trial, 1, 2, 0.5, ())
            return [(1, first), (1, first), (1, late), (7, other), (1, other), (1, other)]

        def lost(self, lease_s: float) -> list[int]:  # noqa: ARG002
            return [1, 7]

    class Team:
        def keep(self, wanted: int) -> None:
            assert wanted == 1

    engine = SlurmWorkers(SETUP, 3, {"executor": "local"})
    engine._side, engine._team = Side(), Team()  # type: ignore[assignment]
    packs, found = [(job(0), job(1))], list[JobEvent]()
    engine.run(lambda: packs.pop() if packs else (), found.append)
    assert found == [TrialFinished(0, result(0)), TrialFinished(1, result(1))]


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """Tasks execute what they find there."""
    from einsearch_cli.search.engines.slurm import _refuse_folder_of_others

    tmp_path.chmod(0o700)
    _refuse_folder_of_others(tmp_path)
    for mode in (0o770, 0o702):
        tmp_path.chmod(mode)
        with pytest.raises(StudyError, match="others can write to it") as caught:
            _refuse_folder_of_others(tmp_path)
        assert f"chmod 700 {tmp_path}" in str(caught.value.remedy)


def test_progress_is_that_of_the_worker_that_has_the_pack(study: StudySide) -> None:
    """A task that was replaced leaves its last sign of life behind."""
    study.put(1, [job(0)])
    for name, step in (("old", 500), ("new", 3)):
        side = worker(study, name)
        assert side.take() == (job(0),)
        side.tell(TrialProgress(0, job(0).trial, step, 900, 0.25, ()))
        side.beat()
        assert [event.step for _, event in study.events() if isinstance(event, TrialProgress)] == [step]
        if name == "old":
            side.give_back()
    assert list(study.events()) == []


def hand_in(study: StudySide, *events: TrialNote | TrialFinished) -> None:
    """Let a worker take a pack and report its events."""
    side = worker(study, f"worker-{events[0].number}")
    study.put(events[0].number, [job(event.number) for event in events])
    side.take()
    for event in events:
        side.tell(event)


def test_results_handed_in_to_a_killed_process_go_to_the_next_one(tmp_path: Path) -> None:
    killed = StudySide(tmp_path / "killed", SHIPMENT)
    hand_in(killed, TrialFinished(0, result(0)))
    hand_in(killed, TrialFinished(1, failed_result(job(1).trial, "failed", "died", 1.0), worker_died=True))
    hand_in(killed, TrialFinished(2, failed_result(job(2).trial, "diverged", "NaN", 1.0)))
    (killed.root / "said" / "old.json").write_text('{"of": "another version"}')
    left = LeftBehind(tmp_path)
    assert worker(killed, "late").is_over(5.0), "its workers are let go"
    jobs = [Job(10 + number, job(number).trial) for number in range(4)]
    assert [(end.number, end.result.status) for end in left.ends(jobs)] == [(10, "ok"), (12, "diverged")]
    assert list(left.ends(jobs)) == [], "each counts once"
    hand_in(killed, TrialFinished(3, result(3)))
    left.tidy()
    assert list(LeftBehind(tmp_path).ends(jobs)) == [], "a folder without results is removed"


def test_a_result_stays_until_the_study_has_stored_it(tmp_path: Path) -> None:
    hand_in(StudySide(tmp_path / "killed", SHIPMENT), TrialFinished(0, result(0)))

    def store(left: LeftBehind) -> None:
        for _ in left.ends([job(0)]):
            raise OSError("no room is left")

    for _ in range(2):
        left = LeftBehind(tmp_path)
        with pytest.raises(OSError, match="no room"):
            store(left)
    kept = LeftBehind(tmp_path)
    assert list(kept.ends([job(1)])) == []
    kept.tidy()
    assert list(LeftBehind(tmp_path).ends([job(0)])) == [TrialFinished(0, result(0))]


def test_results_that_come_while_a_study_is_stopped_are_kept_for_it(study: StudySide) -> None:
    hand_in(study, TrialFinished(0, result(0)))
    study.remove({job(1).trial.key, job(0).trial.key})
    assert list(LeftBehind(study.root.parent).ends([job(0)])) == [TrialFinished(0, result(0))]
    study.remove({job(0).trial.key})
    assert not study.root.exists()


class NoTeam:
    """Tasks that nobody starts."""

    def __init__(self, *_: object) -> None: ...

    def keep(self, wanted: int) -> None:
        raise AssertionError(wanted)

    def stop(self) -> None: ...


def test_an_engine_trains_nothing_that_was_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.search.engines.slurm.Team", NoTeam)
    monkeypatch.setattr("einsearch_cli.search.engines.slurm.pack_up", lambda _: SHIPMENT)
    killed = StudySide(tmp_path / ".einsearch-slurm" / "killed", SHIPMENT)
    killed.root.parent.chmod(0o700)
    hand_in(killed, *(TrialFinished(number, result(number)) for number in range(2)))
    packs, found = [(Job(7, job(1).trial),), (Job(6, job(0).trial),)], list[JobEvent]()
    with SlurmWorkers(SETUP, 1, {"executor": "local"}, tmp_path) as engine:
        engine.run(lambda: packs.pop() if packs else (), found.append)
    assert found == [TrialFinished(6, result(0)), TrialFinished(7, result(1))]
    assert list((tmp_path / ".einsearch-slurm").iterdir()) == []


def test_runs_are_saved_in_the_folder_that_is_given_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("einsearch_cli.search.engines.slurm.Team", NoTeam)
    study, disk = tmp_path / "study", tmp_path / "disk"
    study.mkdir()
    setup, options = replace(SETUP, folder=str(study)), {"executor": "local", "folder": str(disk)}

    def saved_in() -> Path:
        with SlurmWorkers(setup, 1, options, study) as engine:
            engine.run(lambda: (), pytest.fail)
            side = engine._side
            assert side is not None
            told = json.loads((side.root / "shipment.json").read_text())["setup"]["folder"]
            assert str(side.root).startswith(told), "workers and the engine mean the same folder"
            copied = shutil.copytree(study, tmp_path / "copied", dirs_exist_ok=True)
            with SlurmWorkers(setup, 1, options, copied) as copy:
                copy.run(lambda: (), pytest.fail)
                assert copy.setup.folder != told
        return Path(told)

    place = saved_in()
    assert place.is_relative_to(disk)
    assert elsewhere(study) == saved_in() == place
    trial = job(0).trial
    for folder in (study, place):
        run_folder(folder, trial).mkdir(parents=True)
    assert len(left_behind(study, [trial])) == 2
    remove_run_folder(study, trial)
    assert left_behind(study, [trial]) == []
