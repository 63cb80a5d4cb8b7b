"""The engine of this machine: worker processes take packs of jobs from a pipe and send back events."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Final

from einsearch_cli import version
from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines import Engine, register
from einsearch_cli.search.job import Job, JobEvent, Pack, Report, TrialFinished, TrialSetup, run_pack
from einsearch_cli.search.worker_output import WorkerOutput
from einsearch_cli.training.proxy.trial import failed_result
from einsearch_cli.version import __version__

_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LOADED_ONCE: Final = ["einsearch_cli.search.engines.local", "einsearch_cli.training.proxy.run"]
"""Modules that the fork server loads, torch among them."""
_STOPPING: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that stop a study."""
PREEMPTED: Final = 128 + signal.SIGTERM
"""Exit code of a worker that was asked to end and has saved its runs."""
_FALSE_STARTS: Final = 3
"""Workers in a row that may die before they take their pack; then the pack's jobs have failed."""
_NO_MEMORY: Final = ("MemoryError", "allocate memory", "not enough memory", "bad_alloc")
_SAVING_S: Final = 5.0
"""Seconds that all workers get to save their runs when a study is left."""


@dataclass(frozen=True)
class _Begun:
    """The message of a worker that starts a pack, from which on its time counts."""

    version: str
    """Version of einsearch when the worker started."""


@register
class LocalProcesses(Engine):
    """One process per worker on this machine, each with one thread.

    Workers start when there is work for them, stay for the next `run`, and end with the context. They are forked from a
    process that has loaded torch (multiprocessing's fork server), so torch is loaded once and its memory is shared.
    Each one leads a process group, so that its child processes end with it.
    """

    name = "local"
    is_local = True
    saves_runs = True

    def __init__(
        self,
        setup: TrialSetup,
        workers: int | None = None,
        options: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(setup, workers, options, folder)
        self._team: list[_Worker] = []
        self._returned: list[Pack] = []
        """Packs of workers that died while they loaded torch; no job is to blame."""
        self._false_starts = 0
        """Workers in a row that died while they loaded torch."""

    def default_workers(self) -> int:
        """One worker for every core or CUDA device."""
        devices = self.setup.devices
        return len(devices) if devices != ("cpu",) else os.cpu_count() or 1

    def start_up_s(self, loading_s: float) -> float:
        """Seconds until the fork server has loaded torch for all workers."""
        return loading_s

    def stop(self) -> None:
        """End idle workers, give the others time to save their runs, and kill them."""
        self._returned.clear()
        deadline_s = time.monotonic() + _SAVING_S
        if self.setup.folder is not None:
            for worker in self._team:
                worker.ask_to_end()
        while self._team:
            worker = self._team.pop()
            if worker.jobs and self.setup.folder is not None:
                worker.process.join(timeout=max(0.0, deadline_s - time.monotonic()))
            worker.stop()

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        """Run packs until none is left."""
        while self._assign(next_pack):
            busy = [worker for worker in self._team if worker.jobs]
            ready = set(connection.wait([handle for w in busy for handle in w.handles()], _patience_s(busy)))
            for worker in busy:
                if worker.is_overdue() or not ready.isdisjoint(worker.handles()):
                    for event in worker.events():
                        on_event(event)
                    self._look_after(worker, on_event)

    def _look_after(self, worker: _Worker, on_event: Report) -> None:
        """Take the jobs of a dead worker back if they are not to blame: before it took them, or if it was asked to end."""
        if not worker.jobs or worker.process.is_alive():
            self._false_starts = 0 if worker.has_begun else self._false_starts
        elif worker.has_begun:  # asked to end by SIGTERM: it has saved its runs
            self._returned.append(worker.take_back())
        else:
            self._false_starts += 1
            if self._false_starts < _FALSE_STARTS:
                self._returned.append(worker.take_back())
            else:
                for event in worker.dead():
                    on_event(event)

    def _assign(self, next_pack: Callable[[], Pack]) -> bool:
        """Give every idle worker a pack, and replace dead workers; False if nothing runs any more."""
        self._team = [worker for worker in self._team if worker.jobs or worker.process.is_alive()]
        idle = [worker for worker in self._team if not worker.jobs]
        while idle or len(self._team) < self.workers:
            pack = self._returned.pop() if self._returned else next_pack()
            if not pack:
                break
            if not idle:
                idle.append(_Worker(self._setup_of_next()))
                self._team += idle
            idle.pop().start(pack)
        return bool(self._returned) or any(worker.jobs for worker in self._team)

    def _setup_of_next(self) -> TrialSetup:
        """The setup of the next worker, with the device that has the fewest workers."""
        taken = [device for worker in self._team for device in worker.setup.devices]
        return replace(self.setup, devices=(min(self.setup.devices, key=taken.count),))


def _patience_s(busy: list[_Worker]) -> float | None:
    """Seconds until the first of these workers is overdue; None if there is no limit."""
    deadlines_s = [worker.deadline_s for worker in busy if worker.deadline_s is not None]
    return max(0.0, min(deadlines_s) - time.monotonic()) if deadlines_s else None


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, setup: TrialSetup) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(_LOADED_ONCE)
        self.setup = setup
        self.pipe: Connection
        self.pipe, far_end = context.Pipe()
        self._printed, printing = context.Pipe(duplex=False)
        self.output = WorkerOutput(self._printed.fileno())
        self.process = context.Process(target=_work, args=(far_end, printing, setup, dict(os.environ)), daemon=True)
        self.jobs: dict[int, Job] = {}
        """Unfinished jobs of its pack, by number."""
        self.has_begun = False
        """Whether the worker has taken its pack."""
        self.deadline_s: float | None = None
        """When the pack is overdue, by the monotonic clock; None without a limit, or before it has started."""
        with _environment(_WORKER_ENVIRONMENT | _path_of_modules()), without_interrupts():
            try:
                self.process.start()
            except (EOFError, ConnectionError):
                raise StudyError(
                    "the process that starts workers ended while it loaded torch, perhaps for lack of memory",
                    remedy="free some memory, then run the same command again: finished runs are kept",
                ) from None
        far_end.close()
        printing.close()

    def start(self, pack: Pack) -> None:
        self.jobs = {job.number: job for job in pack}
        self.has_begun, self.deadline_s = False, None
        self.output.clear()
        with suppress(BrokenPipeError):
            self.pipe.send(tuple(pack))

    def handles(self) -> list[Connection | int]:
        """Handles that become ready when there is something to do: messages, output, or the end of the process."""
        printed = [self._printed] if self.output.is_open else []
        return [self.pipe, self.process.sentinel, *printed]

    def is_overdue(self) -> bool:
        """Whether its pack has taken too long."""
        return self.deadline_s is not None and time.monotonic() >= self.deadline_s

    def events(self) -> Iterator[JobEvent]:
        """Events that the worker has sent; failed results if it died, or had to be killed, with unfinished jobs."""
        self.output.read()
        try:
            while self.jobs and self.pipe.poll():
                event = self.pipe.recv()
                if isinstance(event, _Begun):
                    self._begin(event)
                    continue
                if isinstance(event, TrialFinished):
                    del self.jobs[event.number]
                    event = self._explained(event)
                yield event
        except (EOFError, OSError):
            self.process.join()
        if self.jobs and self.is_overdue():
            limit = f"the run took longer than the {self.setup.run_timeout_s:g} s of --run-timeout"
            # A pack hangs as a whole; which of its runs is to blame shows when each is tried alone.
            yield from self._all_failed(limit, worker_died=len(self.jobs) > 1)
        elif self.jobs and self.has_begun and not self.process.is_alive() and self.process.exitcode != PREEMPTED:
            yield from self.dead()

    def _begin(self, message: _Begun) -> None:
        if message.version != __version__:
            raise StudyError(
                f"this process has einsearch {__version__}, and a worker that it started has {message.version}: "
                "the package was changed while the study ran",
                remedy="run the same command again: finished runs are kept",
            )
        self.has_begun = True
        limit_s = self.setup.run_timeout_s
        self.deadline_s = None if limit_s is None else time.monotonic() + limit_s * len(self.jobs)

    def dead(self) -> Iterator[TrialFinished]:
        """Failed results for the unfinished jobs of a dead worker."""
        reason = f"the worker process died with exit code {self.process.exitcode}"
        if self.process.exitcode == -signal.SIGKILL:
            reason += " (killed; perhaps out of memory)"
        yield from self._all_failed(reason, worker_died=True)

    def take_back(self) -> Pack:
        """Remove and return the unfinished jobs."""
        jobs, self.jobs = tuple(self.jobs.values()), {}
        return jobs

    def _all_failed(self, reason: str, *, worker_died: bool) -> Iterator[TrialFinished]:
        """Failed results for all unfinished jobs; the rest of the worker is killed."""
        self._kill()
        self.output.read()
        jobs, self.jobs = self.jobs, {}
        for job in jobs.values():
            failed = failed_result(job.trial, "failed", reason, 0.0)
            yield TrialFinished(job.number, failed, worker_died, self.output.text())

    def _explained(self, event: TrialFinished) -> TrialFinished:
        """A failed result with the worker's output and, if it met one, the limit."""
        result, memory = event.result, self.setup.worker_memory
        if result.status != "failed":
            return event
        self.output.read()
        if memory is not None and any(words in (result.error or "") for words in _NO_MEMORY):
            rule = f"the run needs more than the {memory / 1e9:.3g} GB of --worker-memory"
            result = replace(result, error=f"{rule}: {result.error}")
        return replace(event, result=result, output=self.output.text() + event.output)

    def ask_to_end(self) -> None:
        """Ask the worker to save its runs and end."""
        if self.jobs:
            self.process.terminate()

    def stop(self) -> None:
        if not self.jobs:
            with suppress(BrokenPipeError, OSError):
                self.pipe.send(None)
            self.process.join(timeout=2)
        self._kill()
        self.pipe.close()
        self._printed.close()

    def _kill(self) -> None:
        """Kill the process and its child processes."""
        with suppress(ProcessLookupError):  # it does not lead a group yet, or nothing is left of it
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, printing: Connection, setup: TrialSetup, environment: dict[str, str]) -> None:
    """Train packs until the pipe closes; the main function of a worker process.

    `environment` is the parent's of today; the fork server's may be older.
    """
    os.setsid()
    os.environ.clear()
    os.environ.update(_WORKER_ENVIRONMENT | environment)
    for stream in (1, 2):
        os.dup2(printing.fileno(), stream)
    printing.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if setup.worker_memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (setup.worker_memory, resource.RLIM_INFINITY))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    import einsearch_cli.training.proxy.run  # noqa: F401  # loading it is not part of the first run
    from einsearch_cli.machine import retain_memory
    from einsearch_cli.training.proxy.keeping import save_on_sigterm

    loaded = _version_on_disk()
    save_on_sigterm()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING - {signal.SIGINT})
    retain_memory()
    torch.set_num_threads(1)  # two processes of one thread train more per second than one of two threads
    with suppress(EOFError, BrokenPipeError):
        while (pack := pipe.recv()) is not None:
            pipe.send(_Begun(loaded))
            run_pack(pack, setup, pipe.send)


def _version_on_disk() -> str:
    """The version of the package's files now: they may have changed since the fork server loaded them."""
    return str(runpy.run_path(version.__file__)["__version__"])


def _die_with_parent() -> None:
    """End with the parent: without it, the results of a worker are lost anyway."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Block the signals that stop a study while a worker starts, whose parent passes them on.

    The fork server and its workers inherit the mask; a worker later unblocks all but Ctrl-C. The server keeps it: a
    signal to all processes of a study must not end it before the workers, because it tells the parent when a worker
    has ended. In this process, any other thread may take the signal, and Python still interrupts the main thread, so
    the handlers wait too: a worker whose parent is interrupted before it has sent everything prints a traceback. The
    process that tracks resources for all workers starts first, because its start ends with unblocking Ctrl-C.
    """
    resource_tracker.ensure_running()
    held: list[tuple[int, FrameType | None]] = []
    found = {sign: signal.getsignal(sign) for sign in _STOPPING}
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {sign: handler for sign, handler in found.items() if is_main and callable(handler)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    for sign in handlers:
        signal.signal(sign, lambda *caught: held.append(caught))
    try:
        yield
    finally:
        for sign, handler in handlers.items():
            signal.signal(sign, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number, frame in held:
        handlers[signal.Signals(number)](number, frame)


def _path_of_modules() -> dict[str, str]:
    """Environment with which the fork server finds the modules of this process, and not files of the working folder."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "PYTHONSAFEPATH": "1"}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables while a process starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
