"""Trials whose worker dies are tried again, and logs of failed ones are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.job import (
    Job,
    JobEvent,
    Pack,
    Report,
    TrialFinished,
    TrialSetup,
    TrialStarted,
    TrialTriedAgain,
    run_pack,
)
from einsearch_cli.search.running import RunEvent, run_waiting
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

TRIALS = [Trial(parse_structure("monarch"), 16, seed, 0, 1e9) for seed in range(4)]


class Told(Engine):
    """Ends every job as prescribed; `packs` are the seeds of each pack that it received."""

    name = "told"

    def __init__(self, end: Callable[[Job, int], TrialFinished], pack: int = 1) -> None:
        super().__init__(TrialSetup("teacher", pack=pack), 1)
        self.end = end
        self.packs: list[list[int]] = []

    def stop(self) -> None:
        """Nothing runs."""

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        while pack := next_pack():
            self.packs.append([job.trial.seed for job in pack])
            for job in pack:
                on_event(self.end(job, len(pack)))


def ok(job: Job) -> TrialFinished:
    return TrialFinished(job.number, TrialResult(job.trial, "ok", 0.5, 1, 1e9, 2e9, 10, 0.1, ()))


def dead(job: Job, output: str = "") -> TrialFinished:
    failed = failed_result(job.trial, "failed", "the worker died", 0.0)
    return TrialFinished(job.number, failed, worker_died=True, output=output)


def run(folder: Path, engine: Told, trials: list[Trial] = TRIALS) -> tuple[list[RunEvent], list[TrialResult]]:
    events: list[RunEvent] = []
    with StudyStore(folder, "f") as store:
        store.add(trials)
        run_waiting(store, engine, events.append)
        return events, store.results()


def test_runs_of_a_dead_worker_are_tried_again_each_alone(tmp_path: Path) -> None:
    engine = Told(lambda job, size: dead(job) if size > 1 else ok(job), pack=3)
    events, results = run(tmp_path, engine)
    assert engine.packs == [[0, 1, 2], [2], [1], [0], [3]]
    assert sorted(result.trial.seed for result in results if result.status == "ok") == [0, 1, 2, 3]
    again = [event for event in events if isinstance(event, TrialTriedAgain)]
    assert [(event.trial.seed, event.reason, event.deaths) for event in again] == [
        (n, "the worker died", 1) for n in range(3)
    ]
    assert sum(isinstance(event, TrialStarted) for event in events) == 7


def test_a_run_that_three_workers_died_with_has_failed(tmp_path: Path) -> None:
    engine = Told(lambda job, _: dead(job) if job.trial.seed == 1 else ok(job))
    events, results = run(tmp_path, engine)
    assert engine.packs == [[0], [1], [1], [1], [2], [3]]
    assert [result.error for result in results if result.status == "failed"] == [
        "the worker died; 3 workers died with this run in hand"
    ]
    assert [event.deaths for event in events if isinstance(event, TrialTriedAgain)] == [1, 2]


def test_tries_count_for_one_process(tmp_path: Path) -> None:
    for _ in range(2):
        engine = Told(lambda job, _: dead(job))
        run(tmp_path, engine, TRIALS[:1])
        assert len(engine.packs) == 3


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_what_a_worker_printed_is_kept_for_failed_runs(tmp_path: Path, status: str) -> None:
    def end(job: Job, _: int) -> TrialFinished:
        return TrialFinished(job.number, failed_result(job.trial, status, "boom", 0.0), output="words\n")  # type: ignore[arg-type]

    events, [result] = run(tmp_path, Told(end), TRIALS[:1])
    log = tmp_path / "logs" / "run-0.log"
    assert log.exists() == (status == "failed")
    assert result.error == ("boom; see logs/run-0.log" if status == "failed" else "boom")
    [finished] = [event for event in events if isinstance(event, TrialFinished)]
    assert finished.log == (log if status == "failed" else None)
    assert not log.exists() or log.read_text() == "words\n"


def test_every_try_has_a_log(tmp_path: Path) -> None:
    events, _ = run(tmp_path, Told(lambda job, _: dead(job, f"try {job.number}")), TRIALS[:1])
    assert [event.log for event in events if isinstance(event, TrialTriedAgain)] == [
        tmp_path / "logs" / f"run-{n}.log" for n in range(2)
    ]
    assert (tmp_path / "logs" / "run-2.log").read_text() == "try 2"


@pytest.mark.usefixtures("registers")
def test_an_unexpected_error_has_its_traceback_and_a_known_one_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setup = TrialSetup("teacher", {"teacher_width": 16, "pool_size": 256, "validation_size": 64, "batch_size": 64})
    ends: list[JobEvent] = []
    run_pack([Job(0, replace(TRIALS[0], budget_flops=1.0))], setup, ends.append)
    run_pack([Job(1, TRIALS[0])], replace(setup, optimizer={"no_such_field": 1}), ends.append)
    known, unexpected = (end for end in ends if isinstance(end, TrialFinished))
    assert (known.output, "a budget of 1 training FLOPs" in str(known.result.error)) == ("", True)
    assert unexpected.output.startswith("Traceback (most recent call last):")
    assert str(unexpected.result.error).partition(":")[0] in unexpected.output
