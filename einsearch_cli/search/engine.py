"""Engines run trials. The contract, and the engine of local processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Protocol, Self

from einsearch_cli.search.worker import Finished, Job, Progress, WorkerSetup, work
from einsearch_cli.training.proxy.trial import failed_result

_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Engine(Protocol):
    """Runs jobs until none are left.

    Contract: every job that `next_job` gives ends in exactly one `Finished`
    event, also if the process that ran it dies; a failure of one job leaves
    the others alone. Events arrive in the caller's thread. An engine is a context
    manager; leaving it stops running jobs without an event.
    """

    def run(self, next_job: Callable[[], Job | None], on_event: Callable[[Progress | Finished], None]) -> None:
        """Run jobs; `next_job` returns None when there are no more."""


class LocalProcesses:
    """One process per worker on this machine, each with its own thread.

    A context manager: workers start when there is work for them, stay for the
    next `run`, and end with the context.
    """

    def __init__(self, workers: int, setup: WorkerSetup) -> None:
        self._workers = workers
        self._setup = setup
        self._team: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._team:
            self._team.pop().stop()

    def run(self, next_job: Callable[[], Job | None], on_event: Callable[[Progress | Finished], None]) -> None:
        """Run jobs until none are left."""
        while self._assign(next_job):
            busy = [worker for worker in self._team if worker.job is not None]
            ready = connection.wait([handle for w in busy for handle in (w.pipe, w.process.sentinel)])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    for event in worker.events():
                        on_event(event)

    def _assign(self, next_job: Callable[[], Job | None]) -> bool:
        """Give every idle worker a job, replacing dead ones; False when nothing runs any more."""
        self._team = [worker for worker in self._team if worker.job is not None or worker.process.is_alive()]
        idle = [worker for worker in self._team if worker.job is None]
        while idle or len(self._team) < self._workers:
            job = next_job()
            if job is None:
                break
            if not idle:
                idle.append(_Worker(self._setup))
                self._team += idle
            idle.pop().start(job)
        return any(worker.job is not None for worker in self._team)


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, setup: WorkerSetup) -> None:
        context = get_context("spawn")
        self.pipe: Connection
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=work, args=(far_end, setup), daemon=True)
        self.job: Job | None = None
        with _environment(_WORKER_ENVIRONMENT), _without_interrupts():
            self.process.start()
        far_end.close()

    def start(self, job: Job) -> None:
        self.job = job
        with suppress(BrokenPipeError):
            self.pipe.send(job)

    def events(self) -> Iterator[Progress | Finished]:
        """What the worker has sent; a failed result if it died with a job in hand."""
        try:
            while self.job is not None and self.pipe.poll():
                event = self.pipe.recv()
                if isinstance(event, Finished):
                    self.job = None
                yield event
        except (EOFError, OSError):
            self.process.join()
        if self.job is not None and not self.process.is_alive():
            job, self.job = self.job, None
            reason = f"the worker process died with exit code {self.process.exitcode}"
            if self.process.exitcode == -9:
                reason += " (killed; perhaps out of memory)"
            yield Finished(job.number, failed_result(job.trial, "failed", reason, 0.0))

    def stop(self) -> None:
        if self.job is None:
            with suppress(BrokenPipeError, OSError):
                self.pipe.send(None)
            self.process.join(timeout=2)
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while a worker starts; the worker inherits this and leaves stopping to its parent.

    The mask is what the worker inherits. Here any other thread may take the signal and Python still interrupts the main
    one, so the handlers wait too: a worker whose parent is interrupted before it has sent everything prints a traceback.
    The process that tracks resources for all workers starts first, as its start ends with unblocking Ctrl-C.
    """
    resource_tracker.ensure_running()
    held: list[tuple[int, FrameType | None]] = []
    found = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {sign: handler for sign, handler in found.items() if is_main and callable(handler)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the time in which a process starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
