"""Give waiting trials to an engine, and try those again whose worker died."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from einsearch_cli.files import make_folder, write_atomically
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.job import Job, JobEvent, Pack, TrialFinished, TrialStarted, TrialTriedAgain
from einsearch_cli.search.run_folders import remove_run_folder
from einsearch_cli.search.store import StudyStore

MOST_DEATHS: Final = 3
"""Deaths of workers with one trial after which it has failed; it is tried again twice."""
LOGS: Final = "logs"
"""Folder in the study's folder with the output of workers before their runs failed."""

RunEvent = TrialStarted | TrialTriedAgain | JobEvent


def run_waiting(store: StudyStore, engine: Engine, on_event: Callable[[RunEvent], None]) -> None:
    """Run all trials of the queue.

    Deaths of workers are not results, as their cause may lie outside (a killed process, too little memory). Such a
    trial is tried again, alone, and has failed when `MOST_DEATHS` workers have died with it.
    """

    def next_pack() -> Pack:
        """The next pack, sized so that all workers get a share of the queue."""
        share = math.ceil(store.waiting() / engine.workers)
        pack = [Job(*taken) for taken in store.take_pack(min(share, engine.setup.pack))]
        for job in pack:
            on_event(TrialStarted(job.number, job.trial))
        return pack

    def record(event: JobEvent) -> None:
        if isinstance(event, TrialFinished):
            trial = event.result.trial
            died = store.count_death(trial) if event.worker_died else 0
            if died >= MOST_DEATHS:
                event = _with_error(event, f"; {died} workers died with this run in hand")
            event = _logged(event, store)
            if 0 < died < MOST_DEATHS:
                store.put_back(event.number, trial)
                on_event(TrialTriedAgain(event.number, trial, event.result.error or "", died, event.log))
                return
            store.finish(event.number, event.result)
            if event.result.status != "failed":  # the next process tries it again, from its last state
                remove_run_folder(store.folder, trial)
        on_event(event)

    engine.run(next_pack, record)


def _logged(event: TrialFinished, store: StudyStore) -> TrialFinished:
    """The event with the file of its output, which is written here; unchanged if there is no output."""
    if event.result.status != "failed" or not event.output:
        return event
    path = Path(LOGS) / f"run-{event.number}.log"
    make_folder(store.folder / LOGS)
    write_atomically(store.folder / path, event.output)
    return replace(_with_error(event, f"; see {path}"), log=store.folder / path)


def _with_error(event: TrialFinished, more: str) -> TrialFinished:
    """The event with further words about the error."""
    return replace(event, result=replace(event.result, error=f"{event.result.error}{more}"))
