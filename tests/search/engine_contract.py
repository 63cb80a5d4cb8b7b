"""The contract of engines: inherit the class and give `kind`."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any, ClassVar

import pytest

from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines import Engine, engine_names, find_engine, register
from einsearch_cli.search.job import Job, TrialFinished, TrialProgress, TrialSetup, run_trial
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial

SMALL = {"teacher_width": 16, "pool_size": 2048, "validation_size": 256, "batch_size": 64}
FATAL = str(Path(__file__).with_name("fatal.py"))
SETUP = TrialSetup("fatal", SMALL, plugins=(FATAL,))

FATAL_WIDTH = 24
"""A trial of this width ends its process."""

Event = TrialProgress | TrialFinished


def job(number: int, budget_flops: float = 2e7, width: int = 16) -> Job:
    return Job(number, Trial(parse_structure("monarch"), width, number, 0, budget_flops))


def finished(
    engine: Engine, jobs: Iterable[Job], on_event: Callable[[Event], None] = lambda _: None, pack: int = 1
) -> dict[int, Any]:
    """The result of every job, by number; `pack` of them are given at once."""
    return {number: event.result for number, event in endings(engine, jobs, on_event, pack).items()}


def endings(
    engine: Engine, jobs: Iterable[Job], on_event: Callable[[Event], None] = lambda _: None, pack: int = 1
) -> dict[int, TrialFinished]:
    """The last event of every job, by number."""
    found: dict[int, TrialFinished] = {}
    waiting = iter(jobs)

    def note(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert event.number not in found
        if isinstance(event, TrialFinished):
            found[event.number] = event
        on_event(event)

    engine.run(lambda: tuple(itertools.islice(waiting, pack)), note)
    return found


@pytest.mark.usefixtures("one_thread", "registers")
class EngineContract:
    """Tests of one engine with real training."""

    kind: type[Engine]
    options: ClassVar[Mapping[str, str]] = {}
    """The options that `--engine-option` would give."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
        """An engine with two workers for all tests that do not need to stop it."""
        with pytest.MonkeyPatch.context() as patch, cls.kind(SETUP, 2, cls.options) as engine:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
            yield engine

    def test_it_is_found_by_its_name(self) -> None:
        if self.kind.name not in engine_names():
            register(self.kind)
        assert find_engine(self.kind.name) is self.kind
        assert self.kind.name in engine_names()

    def test_making_one_starts_nothing(self) -> None:
        before = active_children()
        engine = self.kind(SETUP, None, self.options)
        assert engine.workers >= 1
        assert engine.start_up_s(1.0) >= 0
        assert active_children() == before

    def test_every_job_ends_once_whatever_becomes_of_the_others(self, engine: Engine) -> None:
        jobs = [job(0), job(1, budget_flops=1.0), job(2, width=FATAL_WIDTH), job(3), job(4)]
        found = finished(engine, jobs)
        assert {number: result.trial for number, result in found.items()} == {job.number: job.trial for job in jobs}
        assert [found[n].status for n in range(5)] == ["ok", "failed", "failed", "ok", "ok"]
        assert "a budget of 1 training FLOPs" in found[1].error
        assert "exit code 3" in found[2].error
        assert found[1].loss is found[2].loss is None

    def test_results_are_those_of_each_job_alone_whatever_the_order(self, engine: Engine) -> None:
        found = finished(engine, [job(n) for n in (1, 0)]) | finished(engine, [job(2)])
        for number, result in found.items():
            alone = run_trial(job(number), SETUP, lambda _: None)
            assert replace(result, elapsed_s=alone.elapsed_s) == alone
        assert sorted(found) == [0, 1, 2]

    def test_jobs_of_one_pack_end_each_by_itself(self, engine: Engine) -> None:
        jobs = [job(0), job(1, budget_flops=1.0), job(2)]
        found = finished(engine, jobs, pack=3)
        assert [found[n].status for n in range(3)] == ["ok", "failed", "ok"]
        assert {number: result.trial for number, result in found.items()} == {job.number: job.trial for job in jobs}

    def test_all_jobs_that_a_dead_worker_had_in_hand_fail(self, engine: Engine) -> None:
        found = endings(engine, [job(0, width=FATAL_WIDTH), job(1, width=FATAL_WIDTH), job(2)], pack=2)
        assert [found[n].result.status for n in range(3)] == ["failed", "failed", "ok"]
        assert [found[n].worker_died for n in range(3)] == [True, True, False]
        assert "exit code 3" in str(found[1].result.error)

    def test_a_job_that_fails_by_itself_is_not_tried_again(self, engine: Engine) -> None:
        assert [end.worker_died for end in endings(engine, [job(0, budget_flops=1.0)]).values()] == [False]

    @pytest.mark.parametrize("cause", [KeyboardInterrupt, StudyError])
    def test_leaving_ends_what_runs(self, engine: Engine, cause: type[BaseException]) -> None:  # noqa: ARG002
        """Ctrl-C, and an error of the study such as a full disk, are not failures of a trial."""
        events: list[Event] = []
        children, threads = set(active_children()), threading.active_count()

        def stop(event: Event) -> None:
            events.append(event)
            if cause is StudyError:
                raise StudyError("no room is left", remedy="make some")
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(cause), self.kind(SETUP, 1, self.options) as other:
            finished(other, [job(n, budget_flops=1e15) for n in range(2)], stop)
        seen = len(events)
        time.sleep(0.5)
        assert len(events) == seen
        assert all(isinstance(event, TrialProgress) for event in events)
        assert set(active_children()) == children
        assert threading.active_count() <= threads
