"""Trials on their way to a worker: jobs and packs, what they need, how they are trained, and what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import DivergedError, EinsearchError
from einsearch_cli.plugins import load_plugins, loaded_plugins
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.structures.record import Record
from einsearch_cli.training.proxy.trial import Status, Trial, TrialResult, failed_result

if TYPE_CHECKING:
    from einsearch_cli.training import StepDone

PROGRESS_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """What all trials of a study need, as plain values that can be written as JSON."""

    task: str
    """Name of the task."""
    task_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the task."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Fields of `OptimizerSettings`."""
    pack: int = 1
    """Runs that a worker trains at once, at most; they differ in seed and learning rate alone."""
    run_timeout_s: float | None = None
    """Seconds that a run may take; a pack may take as long as its runs one after another. None sets no limit."""
    worker_memory: int | None = None
    """Bytes of memory that a worker may allocate; None sets no limit."""
    plugins: tuple[str, ...] = field(default_factory=loaded_plugins)
    """Where tasks and optimizers of the study may be registered."""


@dataclass(frozen=True, slots=True)
class Job(Record):
    """A trial with the number under which its study keeps it."""

    number: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class TrialProgress:
    """A sign of life from a running trial."""

    number: int
    trial: Trial
    step: int
    steps: int
    loss: float
    routing: tuple[RoutingStatistics, ...]
    """What the routers did with the latest training batch, layer by layer; empty without experts."""


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """The end of a trial."""

    number: int
    result: TrialResult
    worker_died: bool = False
    """Whether it has failed only because its worker ended: the study then tries it again."""
    output: str = ""
    """What its worker printed meanwhile, shortened; of failed trials only."""
    log: Path | None = None
    """Where the study has written the output."""


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial was given to the engine."""

    number: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class TrialTriedAgain:
    """A trial whose worker died waits in the queue again, under a number to come."""

    number: int
    trial: Trial
    reason: str
    deaths: int
    """Workers that have died with this trial in hand."""
    log: Path | None = None
    """Where the study has written what the worker printed."""


Pack = Sequence[Job]
"""Jobs of one structure, width and budget, which one worker trains at once; each ends by itself."""

Report = Callable[[TrialProgress | TrialFinished], None]


def run_pack(jobs: Pack, setup: TrialSetup, report: Report) -> None:
    """Train the jobs of a pack here, on the threads that torch is set to.

    Every job ends in one `TrialFinished`, whatever goes wrong with it or with the others; what `report` raises goes on.
    """
    for job in jobs:
        report(TrialFinished(job.number, run_trial(job, setup, report)))


def run_trial(job: Job, setup: TrialSetup, report: Callable[[TrialProgress], None]) -> TrialResult:
    """Train one trial here, on the threads that torch is set to.

    Whatever goes wrong with it becomes its result and leaves other trials alone; what `report` raises goes on.
    """
    from einsearch_cli.tasks import open_task
    from einsearch_cli.training import OptimizerSettings, ProxyRun, train

    trial = job.trial
    started_s = time.perf_counter()
    last_sent_s = 0.0
    is_reporting = False

    def on_step(done: StepDone) -> None:
        nonlocal last_sent_s, is_reporting
        if (now_s := time.perf_counter()) - last_sent_s >= PROGRESS_INTERVAL_S:
            last_sent_s = now_s
            progress = TrialProgress(job.number, trial, done.step, done.steps, done.loss, done.routing())
            is_reporting = True
            report(progress)
            is_reporting = False

    try:
        load_plugins(setup.plugins)
        task = open_task(setup.task, setup.task_settings)
        given = OptimizerSettings(**setup.optimizer)
        changes = {
            "learning_rate": (given.learning_rate or task.settings.learning_rate) * trial.rate,
            "auxiliary_weight": given.auxiliary_weight if trial.balanced else 0.0,
        }
        run = ProxyRun(
            task=task,
            structure=trial.structure,
            width=trial.width,
            budget_flops=trial.budget_flops,
            seed=trial.seed,
            optimizer=given.model_copy(update=changes),
        )
        outcome = train(run, on_step)
    except Exception as error:
        if is_reporting:
            raise
        status: Status = "diverged" if isinstance(error, DivergedError) else "failed"
        text = str(error) if isinstance(error, EinsearchError) else f"{type(error).__name__}: {error}"
        return failed_result(trial, status, text, time.perf_counter() - started_s)
    return TrialResult(
        trial=trial,
        status="ok",
        loss=outcome.loss,
        params=outcome.params,
        train_flops=outcome.train_flops,
        total_flops=outcome.total_flops,
        steps=outcome.steps,
        tokens=float(outcome.steps * run.task.tokens_per_batch),
        elapsed_s=outcome.elapsed_s,
        curve=outcome.curve,
        executed_flops=outcome.executed_flops,
        routing=outcome.routing,
        learning_rate=outcome.learning_rate,
    )
