"""Worker processes: their lifetimes, and signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children, forkserver
from pathlib import Path

import pytest

from einsearch_cli import version
from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines import local
from einsearch_cli.search.engines.local import LocalProcesses, _Worker, without_interrupts
from einsearch_cli.search.job import Pack, TrialProgress, TrialSetup
from tests.faults.driving import is_running, parent_of
from tests.search.engine_contract import Event, endings, finished, job

SMALL = {"teacher_width": 16, "pool_size": 2048, "validation_size": 256, "batch_size": 64}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_workers_stay_and_a_killed_one_fails_its_trial_only() -> None:
    def kill(event: Event) -> None:
        if event.number == 1 and isinstance(event, TrialProgress):
            for child in active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    workers = []
    with LocalProcesses(TrialSetup("teacher", SMALL), 1) as engine:
        for jobs in ([job(0)], [job(1, budget_flops=1e12), job(2)], [job(3)]):
            found = finished(engine, jobs, kill)
            workers += [child.pid for child in active_children()]
            assert [result.status for result in found.values()] == (["failed", "ok"] if len(jobs) == 2 else ["ok"])
            if 1 in found:
                assert found[1].error == "the worker process died with exit code -9 (killed; perhaps out of memory)"
    assert len(workers) == 3
    assert workers[0] != workers[1] == workers[2]
    assert not active_children()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """This includes workers that have nothing to send and so never notice the broken pipe."""
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


def test_a_worker_that_dies_before_it_takes_its_pack_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs are not to blame, so none of their tries is used up; a third such worker in a row ends them."""
    usual_start = _Worker.start
    for deaths, status in ((2, "ok"), (3, "failed")):
        killed: list[int] = []

        def start(worker: _Worker, pack: Pack, killed: list[int] = killed, deaths: int = deaths) -> None:
            usual_start(worker, pack)
            if len(killed) < deaths:
                os.kill(worker.process.pid or 0, signal.SIGKILL)
                killed.append(worker.process.pid or 0)

        with monkeypatch.context() as patch, LocalProcesses(TrialSetup("teacher", SMALL), 1) as engine:
            patch.setattr(_Worker, "start", start)
            end = endings(engine, [job(0)])[0]
        assert (end.result.status, end.worker_died) == (status, status == "failed")
        assert len(set(killed)) == deaths


def test_a_worker_of_another_version_ends_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einsearch_cli.search.engines.local.__version__", "0.0.0")
    with LocalProcesses(TrialSetup("teacher", SMALL), 1) as engine, pytest.raises(StudyError) as caught:
        endings(engine, [job(0)])
    assert "this process has einsearch 0.0.0, and a worker that it started has 0.1.0" in caught.value.problem
    assert not active_children()


def test_a_package_that_changes_after_it_was_loaded_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text('__version__ = "0.2.0"')
    assert local._version_on_disk() == version.__version__
    monkeypatch.setattr(version, "__file__", str(tmp_path / "version.py"))
    assert local._version_on_disk() == "0.2.0"


def test_workers_come_from_one_process_as_if_each_had_been_started_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have today's folder and environment; their parent takes no module from there, and can be killed."""
    servers: list[int] = []
    for name in ("first", "second", "third"):
        here = tmp_path / name
        here.mkdir()
        (here / "random.py").write_text("raise SystemExit(3)")
        monkeypatch.chdir(here)
        monkeypatch.setenv("XDG_CACHE_HOME", str(here))
        with LocalProcesses(TrialSetup("teacher", SMALL), 1) as engine:
            assert finished(engine, [job(0)])[0].status == "ok"
            worker = active_children()[0].pid or 0
            servers.append(parent_of(worker))
            assert Path(f"/proc/{worker}/cwd").resolve() == here
            assert (here / "einsearch").is_dir(), "the cache"
            assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked(servers[-1]), "it outlives its workers"
            assert blocked(worker) == {signal.SIGINT}
        if name == "first":
            os.kill(servers[0], signal.SIGKILL)
            assert comes_true(lambda: not is_running(servers[0]), within_s=30)
            with monkeypatch.context() as patch, LocalProcesses(TrialSetup("teacher", SMALL), 1) as engine:
                patch.syspath_prepend(here)
                with pytest.raises(StudyError, match="the process that starts workers ended while it loaded torch"):
                    finished(engine, [job(0)])
            died = vars(forkserver._forkserver)["_forkserver_pid"]
            assert comes_true(lambda died=died: not is_running(died), within_s=30)
    assert servers[0] != servers[1] == servers[2]


def blocked(pid: int) -> set[signal.Signals]:
    """The signals that a process blocks."""
    (mask,) = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return {sign for sign in signal.valid_signals() if int(mask, 16) >> (sign - 1) & 1}


def comes_true(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait for a condition, for `within_s` seconds at most."""
    started_s = time.perf_counter()
    while not (met := condition()) and time.perf_counter() - started_s < within_s:
        time.sleep(0.05)
    return met


def test_an_interrupt_waits_until_a_worker_has_started() -> None:
    """Other threads, such as torch's, take a signal that the main one blocks."""
    end = threading.Event()
    threading.Thread(target=end.wait, args=(60,), daemon=True).start()
    after = []

    def start() -> None:
        with without_interrupts():
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
from einsearch_cli.search.engines.local import without_interrupts

def show():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    worker = get_context("forkserver").Process(target=show)
    with without_interrupts():
        worker.start()
    worker.join()
"""


def test_the_first_worker_of_a_process_holds_interrupts_back_too(tmp_path: Path) -> None:
    """Starting the first one also starts a process that tracks resources, which then unblocks Ctrl-C."""
    (tmp_path / "first.py").write_text(SIGNALS_OF_A_WORKER)
    found = subprocess.run([sys.executable, tmp_path / "first.py"], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


def test_workers_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers only record where they would train."""
    devices: list[str] = []

    class Noted(RuntimeError): ...

    class Noting:
        def __init__(self, setup: TrialSetup) -> None:
            self.setup, self.jobs = setup, {0: job(0)}
            devices.extend(setup.devices)
            if len(devices) == 5:
                raise Noted

        def start(self, pack: Pack) -> None: ...

        def stop(self) -> None: ...

    monkeypatch.setattr("einsearch_cli.search.engines.local._Worker", Noting)
    setup = TrialSetup("teacher", SMALL, devices=("cuda:0", "cuda:1", "cuda:2"))
    assert LocalProcesses(setup).workers == 3, "one for each"
    with pytest.raises(Noted), LocalProcesses(setup, 5) as engine:
        engine.run(lambda: (job(0),), lambda _: None)
    assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
