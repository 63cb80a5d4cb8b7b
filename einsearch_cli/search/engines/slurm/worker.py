"""The program of a task of the job array: local workers, fed from the shared folder until the study is over."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from einsearch_cli.errors import EinsearchError, StudyError
from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.engines.slurm.shared_folder import WorkerSide
from einsearch_cli.search.job import JobEvent, Pack, TrialFinished
from einsearch_cli.search.shipping import ShippedFile, unpack

LOOK_S: Final = 0.2
"""Seconds between two looks for new packs while runs are trained, at least."""
LONGEST_LOOK_S: Final = 2.0
_STOP_S: Final = 1.0
"""Seconds between two looks for the end of the study."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Signals that end a task: cancelling, preemption, and submitit's warning before the time limit."""
_SIGNAL_LAG_S: Final = 1.0
"""Slurm signals all processes of a task; within this time, a dead process and our own signal are one event."""


class _Leave(BaseException):
    """Raised in a task that has to end."""


def work(root: str, cores: int, beat_s: float, patience_s: float) -> None:
    """Train packs until the study is over or this task has to end; unfinished runs are then returned.

    Args:
        root: the shared folder.
        cores: number of worker processes.
        beat_s: seconds between signs of life.
        patience_s: seconds after which a silent study counts as over.
    """
    side = WorkerSide(Path(root), f"{_task()}-{os.getpid()}")
    for sign in _SIGNALS:
        signal.signal(sign, _leave)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(side, beat_s, patience_s, ended), daemon=True)
    try:
        side.beat()
        beating.start()
        _train(side, cores)
    except (_Leave, FileNotFoundError):  # the study removes the folder
        pass
    except EinsearchError as error:
        side.refuse(error)
    finally:
        for sign in _SIGNALS:
            signal.signal(sign, signal.SIG_IGN)
        with suppress(FileNotFoundError):
            side.give_back()
        ended.set()


def _task() -> str:
    """The number of this task, as submitit names it."""
    import submitit

    return str(submitit.JobEnvironment().job_id)


def _leave(*_: int | FrameType | None) -> None:
    for sign in _SIGNALS:  # one signal is enough
        signal.signal(sign, signal.SIG_IGN)
    raise _Leave


def _beat(side: WorkerSide, beat_s: float, patience_s: float, ended: threading.Event) -> None:
    beaten_s = 0.0
    while not ended.wait(min(beat_s, _STOP_S)):
        if (now_s := time.monotonic()) - beaten_s >= beat_s:
            beaten_s = now_s
            with suppress(FileNotFoundError):
                side.beat()
        if side.is_over(patience_s):
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _train(side: WorkerSide, cores: int) -> None:
    looked_s = 0.0

    def next_pack() -> Pack:
        nonlocal looked_s
        if (now_s := time.monotonic()) - looked_s < LOOK_S:
            return ()
        looked_s = now_s
        return side.take()

    def tell(event: JobEvent) -> None:
        if isinstance(event, TrialFinished) and event.worker_died:
            time.sleep(_SIGNAL_LAG_S)
        side.tell(event)

    pause_s = LOOK_S
    setup = unpack(side.shipment(), _fetch)
    if setup.devices != ("cpu",):
        from einsearch_cli.training.devices import choose_devices

        setup = replace(setup, devices=choose_devices(setup.devices[0]))
    with LocalProcesses(setup, cores) as engine:
        while True:
            before_s = time.monotonic()
            engine.run(next_pack, tell)
            pause_s = LOOK_S if time.monotonic() - before_s > LOOK_S else min(2 * pause_s, LONGEST_LOOK_S)
            time.sleep(pause_s)


def _fetch(file: ShippedFile) -> Iterator[bytes]:
    raise StudyError(
        f"node {platform.node()} has no {file.path}, or another one, which the runs of the study read",
        remedy="put the study's files and the cache (XDG_CACHE_HOME) on a disk that all nodes share",
    )
