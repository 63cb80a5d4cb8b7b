"""Code that runs on the nodes of a Ray cluster; importing it does not need Ray."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.files import draft_folder
from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.engines.ray.states import Incoming, Outgoing, StatePiece
from einsearch_cli.search.job import JobEvent, Pack, TrialFinished, TrialNote, TrialProgress, TrialSetup
from einsearch_cli.search.shipping import Shipment, ShippedFile, unpack

PROGRESS_S: Final = 1.0
"""Seconds between signs of life of a run that cross the network, at least."""
LOOK_S: Final = 1.0
"""Seconds between two searches for new states of runs."""

_teams: dict[str, LocalProcesses] = {}
"""Workers of this process, by what they train and where; they stay for the next pack, so that torch is loaded once."""


class FilesMissing(Exception):
    """Raised for files that this node has neither in their own place nor in its cache."""

    def __init__(self, files: tuple[ShippedFile, ...]) -> None:
        super().__init__(files)
        self.files = files


def train_pack(
    pack: Pack, shipment: Shipment, contents: Mapping[str, list[Any]], states: Sequence[Any]
) -> Iterator[JobEvent | StatePiece]:
    """Train a pack here; yields its events as they happen, and the states of its runs when they are saved.

    The worker process is that of the local engine, with its limits and its reports of deaths. The engine has a separate
    thread, since it reports by calls, while Ray reads a generator.

    Args:
        pack: the pack to train.
        shipment: everything that it needs.
        contents: references to the pieces of files, by path.
        states: references to pieces of states from which runs continue.

    Raises:
        FilesMissing: files are needed of which `contents` has no references.
        StudyError: versions here differ from those on the study's machine.
    """
    setup = _unpacked(shipment, contents)
    folder = None
    if setup.folder is not None:
        try:
            folder = _own_folder()
        except OSError as error:
            words = f"node {platform.node()} cannot save the run: {error.strerror}; it goes on without a state"
            yield from (TrialNote(job.number, job.trial, words) for job in pack)
    outgoing = None
    if folder is not None:
        _receive(states, Incoming(folder, pack))
        outgoing = Outgoing(folder, pack)
    saved_in = None if folder is None else str(folder)
    for event in _events(pack, replace(setup, folder=saved_in), None if folder is None else LOOK_S):
        if outgoing is not None:
            if not isinstance(event, TrialFinished):
                yield from outgoing.pieces()
            elif event.result.status == "failed":  # it may be tried again, and continue from its state
                yield from outgoing.pieces_of(event.number)
        if event is not None:
            yield event
        if outgoing is not None and isinstance(event, TrialFinished):
            outgoing.end(event.number)


def _events(pack: Pack, setup: TrialSetup, patience_s: float | None = None) -> Iterator[JobEvent | None]:
    """Events of the training of a pack; None each time nothing has happened for `patience_s` seconds."""
    events: SimpleQueue[JobEvent | BaseException | None] = SimpleQueue()
    threading.Thread(target=_train, args=(pack, setup, events), daemon=True).start()
    told_s: dict[int, float] = {}
    while True:
        try:
            event = events.get(timeout=patience_s)
        except Empty:
            yield None
            continue
        if event is None:
            return
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, TrialProgress):
            if (now_s := time.monotonic()) - told_s.get(event.number, 0.0) < PROGRESS_S:
                continue
            told_s[event.number] = now_s
        yield event


@cache
def _own_folder() -> Path:
    """The folder for states on this node, removed when this process ends or, if it is killed, by the next one."""
    return _open.enter_context(draft_folder(default_cache_folder() / "runs"))


_open: Final = ExitStack()
"""Files and folders that stay open as long as this process."""


def _receive(states: Sequence[Any], incoming: Incoming) -> None:
    """Write the states from which runs continue; a run whose state cannot be written starts again."""
    if states:
        import ray

        for reference in states:
            with suppress(OSError):
                incoming.take(ray.get(reference))


def _train(pack: Pack, setup: TrialSetup, events: SimpleQueue[JobEvent | BaseException | None]) -> None:
    waiting = [pack]
    try:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # a worker keeps the folder that it started with
        engine = _teams.setdefault(f"{setup} {gpus}", LocalProcesses(setup, 1))
        engine.run(lambda: waiting.pop() if waiting else (), events.put)
    except BaseException as error:
        events.put(error)
    events.put(None)


def _unpacked(shipment: Shipment, contents: Mapping[str, list[Any]]) -> TrialSetup:
    def fetch(file: ShippedFile) -> Iterator[bytes]:
        import ray

        if file.path not in contents:
            raise FilesMissing((*shipment.plugins, *shipment.data))
        return (ray.get(reference) for reference in contents[file.path])

    return unpack(shipment, fetch)
