"""What runs on the nodes of a Ray cluster; Ray itself is not needed to import it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Final

from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.job import JobEvent, Pack, TrialProgress, TrialSetup
from einsearch_cli.search.shipping import Shipment, ShippedFile, unpack

PROGRESS_S: Final = 1.0
"""At most one sign of life a second crosses the network for each run."""

_teams: dict[str, LocalProcesses] = {}
"""The worker of this process, by what it trains; it stays for the next pack, so that torch is loaded once."""


class FilesMissing(Exception):
    """Files that this node has neither in their own place nor in its cache."""

    def __init__(self, files: tuple[ShippedFile, ...]) -> None:
        super().__init__(files)
        self.files = files


def train_pack(pack: Pack, shipment: Shipment, contents: Mapping[str, list[Any]]) -> Iterator[JobEvent]:
    """Train a pack here; what happens, as it happens.

    The worker process is that of the local engine, with its limits and its reports of deaths. The engine has a thread
    of its own, since it reports by calls and Ray takes what a generator gives.

    Raises:
        FilesMissing: files are needed of which `contents` has no references.
        StudyError: other versions here than where the study is.
    """
    events: SimpleQueue[JobEvent | BaseException | None] = SimpleQueue()
    setup = _unpacked(shipment, contents)
    threading.Thread(target=_train, args=(pack, setup, events), daemon=True).start()
    last_s: dict[int, float] = {}
    while (event := events.get()) is not None:
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, TrialProgress):
            if (now_s := time.monotonic()) - last_s.get(event.number, 0.0) < PROGRESS_S:
                continue
            last_s[event.number] = now_s
        yield event


def _train(pack: Pack, setup: TrialSetup, events: SimpleQueue[JobEvent | BaseException | None]) -> None:
    waiting = [pack]
    try:
        engine = _teams.setdefault(repr(setup), LocalProcesses(setup, 1))
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
