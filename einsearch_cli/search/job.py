"""Jobs and packs of trials for workers: what they need, how they are trained, and their results."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.errors import DivergedError, EinsearchError
from einsearch_cli.plugins import load_plugins, loaded_plugins
from einsearch_cli.search.run_folders import run_folder
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.structures.record import Record
from einsearch_cli.training.precision import Precision
from einsearch_cli.training.proxy.trial import Status, Trial, TrialResult, failed_result

if TYPE_CHECKING:
    from einsearch_cli.tasks import AnyTask
    from einsearch_cli.training import ProxyRun, RunOutcome, StepDone
    from einsearch_cli.training.proxy.keeping import StateKeeper

PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """Everything that all trials of a study need, as plain values for JSON."""

    task: str
    """Name of the task."""
    task_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the task."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Values for the fields of `OptimizerSettings`."""
    precision: Precision = "float32"
    """Number type of products."""
    devices: tuple[str, ...] = ("cpu",)
    """Devices of the workers, in turn; `auto` is CUDA if a worker has it."""
    pack: int = 1
    """The most runs that a worker trains at once; they differ only in seed and learning rate."""
    run_timeout_s: float | None = None
    """Seconds that a run may take, None for no limit; a pack may take the sum over its runs."""
    worker_memory: int | None = None
    """Bytes of memory that a worker may allocate; None for no limit."""
    folder: str | None = None
    """The study's folder, where runs are saved; None if workers do not see it, so that nothing is saved."""
    checkpoint_s: float = 300.0
    """Seconds between two saves of a run."""
    plugins: tuple[str, ...] = field(default_factory=loaded_plugins)
    """Plug-ins that may register tasks and optimizers of the study."""
    data_folder: str | None = None
    """Folder with copies of the task's data files, on a machine that lacks the originals."""

    def __post_init__(self) -> None:
        for name in ("devices", "plugins"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Job(Record):
    """A trial with its number in the study."""

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
    """The routers' statistics for the latest training batch, layer by layer; empty without experts."""


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """The end of a trial."""

    number: int
    result: TrialResult
    worker_died: bool = False
    """Whether the trial failed only because its worker ended; the study then tries it again."""
    output: str = ""
    """The worker's output meanwhile, shortened; only for failed trials."""
    log: Path | None = None
    """The file to which the study has written the output."""


@dataclass(frozen=True, slots=True)
class TrialNote:
    """A line that the user should know about a running trial."""

    number: int
    trial: Trial
    text: str


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial was given to the engine."""

    number: int
    trial: Trial


@dataclass(frozen=True, slots=True)
class TrialTriedAgain:
    """A trial whose worker died and that waits in the queue again; it will get a new number."""

    number: int
    trial: Trial
    reason: str
    deaths: int
    """Number of workers that died while they trained this trial."""
    log: Path | None = None
    """The file to which the study has written the worker's output."""


Pack = Sequence[Job]
"""Jobs of one structure, width and budget that one worker trains at once; each ends on its own."""

JobEvent = TrialProgress | TrialNote | TrialFinished
Report = Callable[[JobEvent], None]


def run_pack(jobs: Pack, setup: TrialSetup, report: Report) -> None:
    """Train the jobs of a pack here, on the threads that torch is set to; at once if they are alike enough.

    Every job ends in one `TrialFinished`, whatever goes wrong with it or with the others. Exceptions of `report` are
    passed on. A job's result does not depend on the others, except for its time (see `train_pack`).
    """
    alike: dict[Hashable, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.trial.pack_key, []).append(job)
    for group in alike.values():
        try:
            runs = _runs(group, setup)
            from einsearch_cli.training.proxy.packing import packs_of

            packs = packs_of(runs)
        except Exception as error:
            for job in group:
                report(TrialFinished(job.number, _failed(job.trial, error, 0.0), output=_traceback(error)))
            continue
        for numbers in packs:
            _PackReport([group[number] for number in numbers], setup, report).train(
                [runs[number] for number in numbers]
            )


def run_trial(job: Job, setup: TrialSetup, report: Callable[[TrialProgress], None]) -> TrialResult:
    """Train one trial here, as a pack of one."""
    ends: list[TrialResult] = []

    def tell(event: JobEvent) -> None:
        if isinstance(event, TrialFinished):
            ends.append(event.result)
        elif isinstance(event, TrialProgress):
            report(event)

    run_pack([job], setup, tell)
    return ends[0]


def _runs(jobs: Pack, setup: TrialSetup) -> list[ProxyRun]:
    """The runs of the jobs' trials."""
    from einsearch_cli.training import OptimizerSettings, ProxyRun
    from einsearch_cli.training.devices import use_device

    load_plugins(setup.plugins)
    settings = json.dumps(setup.task_settings, sort_keys=True)
    task = _task(setup.task, settings, default_cache_folder(), setup.data_folder)
    given = OptimizerSettings(**setup.optimizer)
    base_rate = given.learning_rate or task.settings.learning_rate
    device = use_device(setup.devices[0])

    def run(trial: Trial) -> ProxyRun:
        changes = {
            "learning_rate": base_rate * trial.rate,
            "auxiliary_weight": given.auxiliary_weight if trial.balanced else 0.0,
        }
        return ProxyRun(
            task=task,
            structure=trial.structure,
            width=trial.width,
            budget_flops=trial.budget_flops,
            seed=trial.seed,
            optimizer=given.model_copy(update=changes),
            precision=setup.precision,
            device=device,
        )

    return [run(job.trial) for job in jobs]


@lru_cache(maxsize=1)
def _task(name: str, settings: str, cache_folder: Path, data_folder: str | None) -> AnyTask:
    """Open the task of a study, once per process: reading the teacher's data takes 10 ms."""
    from einsearch_cli.tasks import open_task

    task = open_task(name, json.loads(settings), cache_folder)
    return task if data_folder is None else task.reading_from(Path(data_folder))


class _PackReport:
    """Turns events of the runs of a pack into events of its jobs."""

    def __init__(self, jobs: Pack, setup: TrialSetup, report: Report) -> None:
        self.jobs, self.setup, self.report = jobs, setup, report
        self.started_s = time.perf_counter()
        self.last_sent_s = [0.0] * len(jobs)
        self.ended: set[int] = set()
        self.is_reporting = False

    def train(self, runs: Sequence[ProxyRun]) -> None:
        from einsearch_cli.training.proxy.keeping import end_when_saved
        from einsearch_cli.training.proxy.run import train_pack

        def on_end(number: int, end: RunOutcome | DivergedError) -> None:
            trial = self.jobs[number].trial
            if isinstance(end, DivergedError):
                self._end(number, self._failed(trial, end))
            else:
                self._end(number, _finished(trial, end, runs[number]))

        try:
            if (keeper := self._keeper()) is None:
                train_pack(runs, self._on_step, on_end)
            else:
                with end_when_saved():
                    train_pack(runs, self._on_step, on_end, keeper)
        except Exception as error:
            if self.is_reporting:
                raise
            for number, job in enumerate(self.jobs):
                if number not in self.ended:
                    self._end(number, self._failed(job.trial, error), _traceback(error))

    def _failed(self, trial: Trial, error: Exception) -> TrialResult:
        return _failed(trial, error, (time.perf_counter() - self.started_s) / len(self.jobs))

    def _on_step(self, number: int, done: StepDone) -> None:
        if (now_s := time.perf_counter()) - self.last_sent_s[number] >= PROGRESS_INTERVAL_S:
            self.last_sent_s[number] = now_s
            job = self.jobs[number]
            self._send(TrialProgress(job.number, job.trial, done.step, done.steps, done.loss, done.routing()))

    def _end(self, number: int, result: TrialResult, output: str = "") -> None:
        self.ended.add(number)
        self._send(TrialFinished(self.jobs[number].number, result, output=output))

    def _keeper(self) -> StateKeeper | None:
        """Saves the runs in the study's folder, if workers see it."""
        from einsearch_cli.training.proxy.keeping import StateKeeper

        setup, trials = self.setup, [job.trial for job in self.jobs]
        if setup.folder is None:
            return None

        def warn(number: int, text: str) -> None:
            self._send(TrialNote(self.jobs[number].number, trials[number], text))

        folders = [run_folder(Path(setup.folder), trial) for trial in trials]
        return StateKeeper(folders, [trial.key for trial in trials], setup.checkpoint_s, warn)

    def _send(self, event: JobEvent) -> None:
        self.is_reporting = True
        self.report(event)
        self.is_reporting = False


def _traceback(error: Exception) -> str:
    """The place in the code where an unexpected error was raised; empty for errors with a message of their own."""
    return "" if isinstance(error, EinsearchError) else "".join(traceback.format_exception(error))


def _failed(trial: Trial, error: Exception, elapsed_s: float) -> TrialResult:
    status: Status = "diverged" if isinstance(error, DivergedError) else "failed"
    text = str(error) if isinstance(error, EinsearchError) else f"{type(error).__name__}: {error}"
    return failed_result(trial, status, text, elapsed_s)


def _finished(trial: Trial, outcome: RunOutcome, run: ProxyRun) -> TrialResult:
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
