"""The engine of this machine: worker processes that take packs of jobs from a pipe and send back what happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from types import FrameType

from einsearch_cli.search.engines import Engine, register
from einsearch_cli.search.job import Job, Pack, Report, TrialFinished, TrialProgress, TrialSetup, run_pack
from einsearch_cli.training.proxy.trial import failed_result

_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@register
class LocalProcesses(Engine):
    """One process per worker on this machine, each with one thread.

    Workers start when there is work for them, stay for the next `run`, and end with the context.
    """

    name = "local"
    is_local = True

    def __init__(self, setup: TrialSetup, workers: int | None = None) -> None:
        super().__init__(setup, workers)
        self._team: list[_Worker] = []

    def default_workers(self) -> int:
        """One for every core."""
        return os.cpu_count() or 1

    def start_up_s(self, loading_s: float) -> float:
        """Each worker loads torch, at most as many at once as there are cores."""
        return loading_s * max(1.0, self.workers / (os.cpu_count() or 1))

    def stop(self) -> None:
        """Let idle workers go and kill the others."""
        while self._team:
            self._team.pop().stop()

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        """Run packs until none are left."""
        while self._assign(next_pack):
            busy = [worker for worker in self._team if worker.jobs]
            ready = connection.wait([handle for w in busy for handle in (w.pipe, w.process.sentinel)])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    for event in worker.events():
                        on_event(event)

    def _assign(self, next_pack: Callable[[], Pack]) -> bool:
        """Give every idle worker a pack, replacing dead ones; False when nothing runs any more."""
        self._team = [worker for worker in self._team if worker.jobs or worker.process.is_alive()]
        idle = [worker for worker in self._team if not worker.jobs]
        while idle or len(self._team) < self.workers:
            pack = next_pack()
            if not pack:
                break
            if not idle:
                idle.append(_Worker(self.setup))
                self._team += idle
            idle.pop().start(pack)
        return any(worker.jobs for worker in self._team)


class _Worker:
    """The parent's side of a worker process."""

    def __init__(self, setup: TrialSetup) -> None:
        context = get_context("spawn")
        self.pipe: Connection
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_work, args=(far_end, setup), daemon=True)
        self.jobs: dict[int, Job] = {}
        """Those of its pack that have not ended, by number."""
        with _environment(_WORKER_ENVIRONMENT), _without_interrupts():
            self.process.start()
        far_end.close()

    def start(self, pack: Pack) -> None:
        self.jobs = {job.number: job for job in pack}
        with suppress(BrokenPipeError):
            self.pipe.send(tuple(pack))

    def events(self) -> Iterator[TrialProgress | TrialFinished]:
        """What the worker has sent; failed results if it died with jobs in hand."""
        try:
            while self.jobs and self.pipe.poll():
                event = self.pipe.recv()
                if isinstance(event, TrialFinished):
                    del self.jobs[event.number]
                yield event
        except (EOFError, OSError):
            self.process.join()
        if self.jobs and not self.process.is_alive():
            jobs, self.jobs = self.jobs, {}
            reason = f"the worker process died with exit code {self.process.exitcode}"
            if self.process.exitcode == -9:
                reason += " (killed; perhaps out of memory)"
            for job in jobs.values():
                yield TrialFinished(job.number, failed_result(job.trial, "failed", reason, 0.0))

    def stop(self) -> None:
        if not self.jobs:
            with suppress(BrokenPipeError, OSError):
                self.pipe.send(None)
            self.process.join(timeout=2)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, setup: TrialSetup) -> None:
    """Train packs until the pipe closes; the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    from einsearch_cli.layers.memory import retain_memory

    retain_memory()
    torch.set_num_threads(1)  # two processes of one thread train more per second than one of two
    with suppress(EOFError, BrokenPipeError):
        while (pack := pipe.recv()) is not None:
            run_pack(pack, setup, pipe.send)


def _die_with_parent() -> None:
    """A parent that was killed cannot stop its workers; without it their results are lost anyway."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


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
