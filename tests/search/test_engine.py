"""The engine contract, on the engine of local processes with real training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from einsearch_cli.search.engine import LocalProcesses, _without_interrupts
from einsearch_cli.search.worker import Finished, Job, Progress, WorkerSetup
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial

SMALL = {"teacher_width": 16, "pool_size": 2048, "validation_size": 256, "batch_size": 64}
SETUP = WorkerSetup("teacher", SMALL, {})


def jobs(count: int, budget_flops: float = 2e7) -> list[Job]:
    return [Job(n, Trial(parse_structure("monarch"), 16, n, 0, budget_flops)) for n in range(count)]


def run(engine: LocalProcesses, queue: list[Job]) -> dict[int, Finished]:
    found: dict[int, Finished] = {}
    waiting = iter(queue)

    def on_event(event: Progress | Finished) -> None:
        if isinstance(event, Finished):
            assert event.number not in found
            found[event.number] = event

    with engine:
        engine.run(lambda: next(waiting, None), on_event)
    return found


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_every_job_ends_once_and_the_losses_do_not_depend_on_the_number_of_workers() -> None:
    one, two = run(LocalProcesses(1, SETUP), jobs(3)), run(LocalProcesses(2, SETUP), jobs(3))
    assert [one[n].result.loss for n in range(3)] == [two[n].result.loss for n in range(3)]
    assert {finished.result.status for finished in one.values()} == {"ok"}
    assert len({finished.result.loss for finished in one.values()}) == 3


def test_a_run_that_diverges_or_cannot_start_leaves_the_others_unharmed() -> None:
    queue = jobs(3)
    queue[1] = Job(1, Trial(parse_structure("monarch"), 16, 1, 0, 1.0))
    wild = WorkerSetup("teacher", SMALL, {"learning_rate": 1e30})
    found = run(LocalProcesses(2, SETUP), queue)
    assert [found[n].result.status for n in range(3)] == ["ok", "failed", "ok"]
    assert "a budget of 1 training FLOPs" in str(found[1].result.error)
    [diverged] = run(LocalProcesses(1, wild), jobs(1)).values()
    assert diverged.result.status == "diverged"
    assert diverged.result.loss is None
    assert "loss became" in str(diverged.result.error)


def test_a_killed_worker_fails_its_trial_only() -> None:
    from multiprocessing import active_children

    queue = jobs(3)
    queue[0] = Job(0, Trial(parse_structure("monarch"), 16, 0, 0, 1e12))
    waiting = iter(queue)
    found: dict[int, Finished] = {}

    def on_event(event: Progress | Finished) -> None:
        if isinstance(event, Finished):
            found[event.number] = event
        elif event.number == 0 and 0 not in found:
            for child in active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    with LocalProcesses(1, SETUP) as engine:
        engine.run(lambda: next(waiting, None), on_event)
    assert [found[n].result.status for n in range(3)] == ["failed", "ok", "ok"]
    assert "exit code -9" in str(found[0].result.error)


def test_an_interrupt_stops_the_workers() -> None:
    from multiprocessing import active_children

    endless = [Job(n, Trial(parse_structure("monarch"), 16, n, 0, 1e15)) for n in range(2)]

    def interrupt(_: Progress | Finished) -> None:
        raise KeyboardInterrupt

    waiting = iter(endless)
    started_s = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), LocalProcesses(2, SETUP) as engine:
        engine.run(lambda: next(waiting, None), interrupt)
    assert not active_children()
    assert time.perf_counter() - started_s < 60


def test_workers_stay_for_the_next_run() -> None:
    from multiprocessing import active_children

    with LocalProcesses(1, SETUP) as engine:
        seen = []
        for job in jobs(2):
            waiting = iter([job])
            engine.run(lambda: next(waiting, None), lambda _: None)  # noqa: B023
            seen += [child.pid for child in active_children()]
    assert len(seen) == 2
    assert len(set(seen)) == 1
    assert not active_children()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Also those that have nothing to send and so never meet the broken pipe."""
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.search.sleeping", str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    workers: list[int] = []
    try:
        assert comes_true(lambda: len(list(tmp_path.iterdir())) == 2, within_s=120)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        assert all(map(is_running, workers))
        parent.kill()
        parent.wait()
        assert comes_true(lambda: not any(map(is_running, workers)), within_s=15)
    finally:
        parent.kill()
        for pid in filter(is_running, workers):
            os.kill(pid, signal.SIGKILL)


def comes_true(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait for something, for so many seconds at most."""
    started_s = time.perf_counter()
    while not (met := condition()) and time.perf_counter() - started_s < within_s:
        time.sleep(0.05)
    return met


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie that its new parent has not yet collected."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_an_interrupt_waits_until_a_worker_has_started() -> None:
    """Other threads, such as torch's, take a signal that the main one holds back."""
    end = threading.Event()
    threading.Thread(target=end.wait, args=(60,), daemon=True).start()
    after = []

    def start() -> None:
        with _without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            after.append("the worker has started")

    with pytest.raises(KeyboardInterrupt):
        start()
    end.set()
    assert after == ["the worker has started"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SIGNALS_OF_A_WORKER = """
import signal
from multiprocessing import get_context
from einsearch_cli.search.engine import _without_interrupts

def show():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    worker = get_context("spawn").Process(target=show)
    with _without_interrupts():
        worker.start()
    worker.join()
"""


def test_the_first_worker_of_a_process_holds_interrupts_back_too(tmp_path: Path) -> None:
    """Starting the first one also starts a process that tracks resources, after which Ctrl-C is unblocked."""
    (tmp_path / "first.py").write_text(SIGNALS_OF_A_WORKER)
    found = subprocess.run([sys.executable, tmp_path / "first.py"], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
