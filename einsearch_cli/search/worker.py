"""A worker process: takes trials from a pipe, trains them, and sends back what happened."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import DivergedError, EinsearchError
from einsearch_cli.plugins import load_plugins, loaded_plugins
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

if TYPE_CHECKING:
    from einsearch_cli.training import StepDone

PROGRESS_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs besides its trials."""

    task: str
    task_settings: dict[str, Any]
    optimizer: dict[str, Any]
    cache_folder: Path | None = None
    threads: int = 1
    """Two processes of one thread train more per second than one of two."""
    plugins: tuple[str, ...] = field(default_factory=loaded_plugins)
    """Where tasks and optimizers of the study may be registered."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trial on its way to a worker."""

    number: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from a running trial."""

    number: int
    trial: Trial
    step: int
    steps: int
    loss: float
    routing: tuple[RoutingStatistics, ...]
    """What the routers did with the latest training batch, layer by layer; empty without experts."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a trial."""

    number: int
    result: TrialResult


def work(pipe: Connection, setup: WorkerSetup) -> None:
    """Train trials until the pipe closes; the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    from einsearch_cli.layers.memory import retain_memory

    retain_memory()
    torch.set_num_threads(setup.threads)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (job := pipe.recv()) is not None:
            pipe.send(Finished(job.number, run_trial(job, setup, pipe)))


def _die_with_parent() -> None:
    """A parent that was killed cannot stop its workers; without it their results are lost anyway."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def run_trial(job: Job, setup: WorkerSetup, pipe: Connection) -> TrialResult:
    """Train one trial; whatever goes wrong becomes its result and leaves the other trials alone."""
    from einsearch_cli.data import open_task
    from einsearch_cli.training import OptimizerSettings, ProxyRun, train

    trial = job.trial
    started_s = time.perf_counter()
    last_sent_s = 0.0

    def report(done: StepDone) -> None:
        nonlocal last_sent_s
        if (now_s := time.perf_counter()) - last_sent_s >= PROGRESS_INTERVAL_S:
            last_sent_s = now_s
            pipe.send(Progress(job.number, trial, done.step, done.steps, done.loss, done.routing()))

    try:
        load_plugins(setup.plugins)
        run = ProxyRun(
            task=open_task(setup.task, setup.task_settings, setup.cache_folder),
            structure=trial.structure,
            width=trial.width,
            budget_flops=trial.budget_flops,
            seed=trial.seed,
            optimizer=OptimizerSettings(**setup.optimizer | ({} if trial.balanced else {"auxiliary_weight": 0.0})),
        )
        outcome = train(run, report)
    except DivergedError as error:
        return failed_result(trial, "diverged", str(error), time.perf_counter() - started_s)
    except EinsearchError as error:
        return failed_result(trial, "failed", str(error), time.perf_counter() - started_s)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return failed_result(trial, "failed", f"{type(error).__name__}: {error}", time.perf_counter() - started_s)
    return TrialResult(
        trial=trial,
        status="ok",
        loss=outcome.loss,
        params=outcome.params,
        train_flops=outcome.train_flops,
        total_flops=outcome.total_flops,
        steps=outcome.steps,
        elapsed_s=outcome.elapsed_s,
        curve=outcome.curve,
        executed_flops=outcome.executed_flops,
        routing=outcome.routing,
    )
