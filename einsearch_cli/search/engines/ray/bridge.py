"""The process that talks to Ray: python -m einsearch_cli.search.engines.ray.bridge HANDLE

HANDLE is the file descriptor of a pipe to the engine. This process ends when the pipe does.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import ray
import ray.exceptions

from einsearch_cli.errors import EinsearchError, StudyError
from einsearch_cli.search.engines.ray.messages import Answer, Connect, Connected, Ended, Happened, Refused, Train
from einsearch_cli.search.engines.ray.node import FilesMissing, train_pack
from einsearch_cli.search.engines.ray.states import Incoming, StatePiece, newest_state, pieces_of
from einsearch_cli.search.job import JobEvent, Pack, TrialNote
from einsearch_cli.search.run_folders import run_folder
from einsearch_cli.search.shipping import ShippedFile

_ON_THE_WAY: Final = 4
"""Events, or pieces of states, that a task may be ahead of this process, so that large states do not fill memory."""


def main() -> None:
    bridge = Bridge(Connection(int(sys.argv[1])))
    with suppress(EOFError, OSError):
        bridge.serve()
    with suppress(Exception):
        ray.shutdown()  # ends all tasks, and Ray itself if it was started here
    os._exit(0)  # does not wait for the threads that follow tasks


class Bridge:
    """Starts a task for each pack and passes on its events, with one thread per task; nothing is polled."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending, self._putting = threading.Lock(), threading.Lock()
        self._contents: dict[str, list[Any]] = {}
        """References to the pieces of every file, by path; stored once a node lacks the files."""

    def serve(self) -> None:
        """Answer the engine until it closes the pipe."""
        connect: Connect = self._pipe.recv()
        try:
            _connect(connect)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            self._send(Refused(_unreachable(connect, error)))
            return
        self._shipment = connect.shipment
        folder = None if connect.shipment is None else connect.shipment.setup.folder
        self._study = None if folder is None else Path(folder)
        needs = {"num_cpus": 1, "num_gpus": connect.gpus, "max_retries": 0, "num_returns": "streaming"}
        # Ray ends a process after one task with a GPU, and with it the worker that has loaded torch.
        needs["max_calls"] = 0
        self._task = ray.remote(**needs, _generator_backpressure_num_objects=_ON_THE_WAY)(train_pack)
        tasks = int(ray.cluster_resources().get("GPU" if connect.gpus else "CPU", 0))
        if connect.gpus and not tasks:
            self._send(Refused(StudyError("no node of the Ray cluster has a GPU", remedy="--device cpu")))
            return
        self._send(Connected(max(1, tasks)))
        while True:
            train: Train = self._pipe.recv()
            threading.Thread(target=self._follow, args=(train,), daemon=True).start()

    def _follow(self, train: Train) -> None:
        death = None
        try:
            for event in self._events(train):
                self._send(Happened(train.number, event))
        except ray.exceptions.RayTaskError as error:
            self._send(Refused(_refusal(error)))
            return
        except ray.exceptions.RayError as error:
            death = _reason(error)
        self._send(Ended(train.number, death))

    def _events(self, train: Train) -> Iterator[JobEvent]:
        states = self._states(train.pack)
        try:
            yield from self._trained(train.pack, states)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, FilesMissing):
                raise
            self._put(error.cause.files)
            yield from self._trained(train.pack, states)

    def _trained(self, pack: Pack, states: list[Any]) -> Iterator[JobEvent]:
        """Events of the runs of a pack; states that arrive meanwhile are written into the study's folder."""
        incoming = None if self._study is None else Incoming(self._study, pack)
        trials = {job.number: job.trial for job in pack}
        for reference in self._task.remote(pack, self._shipment, self._contents, states):
            found = ray.get(reference)
            if not isinstance(found, StatePiece):
                yield found
            elif incoming is not None:
                try:
                    incoming.take(found)
                except OSError as error:
                    words = f"its state cannot be saved in {self._study}: {error.strerror}; the run goes on without it"
                    yield TrialNote(found.number, trials[found.number], words)

    def _states(self, pack: Pack) -> list[Any]:
        """References to the pieces of all states from which the runs of a pack continue."""
        found: list[Any] = []
        if self._study is None:
            return found
        for job in pack:
            if (state := newest_state(run_folder(self._study, job.trial))) is not None:
                with suppress(OSError):  # it cannot be read: the run starts again
                    for piece in pieces_of(job.number, state):
                        found.append(ray.put(piece))
        return found

    def _put(self, files: tuple[ShippedFile, ...]) -> None:
        with self._putting:
            for file in files:
                if file.path not in self._contents:
                    self._contents = {**self._contents, file.path: [ray.put(piece) for piece in file.pieces()]}

    def _send(self, answer: Answer) -> None:
        with self._sending, suppress(BrokenPipeError):
            self._pipe.send(answer)


def _connect(connect: Connect) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if connect.address is not None:
        ray.init(address=connect.address, **quiet)
    else:
        # "local", since a crashed cluster leaves its address behind, which would be used
        ray.init("local", num_cpus=connect.workers, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)


def _unreachable(connect: Connect, error: BaseException) -> StudyError:
    from einsearch_cli.search.engines.ray import REACHING

    where = "of this machine" if connect.address is None else f"at {connect.address}"
    return StudyError(f"the Ray cluster {where} cannot be reached: {_first_line(error)}", remedy=REACHING)


def _refusal(error: ray.exceptions.RayTaskError) -> EinsearchError:
    """Why no node can run the study: the error that the task raised before it began to train."""
    if isinstance(error.cause, EinsearchError):
        return error.cause
    return StudyError(
        f"a node of the Ray cluster cannot run einsearch: {_first_line(error.cause)}",
        remedy="install the same einsearch, with its extra ray, in the Python of every node, and start Ray from there",
    )


def _reason(error: ray.exceptions.RayError) -> str:
    if isinstance(error, ray.exceptions.NodeDiedError):
        return "the node died that it ran on"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the worker process was killed, as its node had no memory left"
    return f"the worker process died: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


if __name__ == "__main__":
    main()
