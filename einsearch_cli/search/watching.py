"""Files for those who watch a study: `status.json`, which is replaced, and `events.jsonl`, which grows."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from einsearch_cli.errors import EinsearchError, OutputError
from einsearch_cli.files import write_atomically, write_error
from einsearch_cli.search.job import TrialFinished, TrialNote, TrialProgress, TrialStarted, TrialTriedAgain
from einsearch_cli.search.owner import Owner, utc_now
from einsearch_cli.search.status import STATUS, Cost, RunStatus, StageStatus, State, StudyStatus
from einsearch_cli.search.study_clock import StudyClock
from einsearch_cli.training.proxy.trial import Status, Trial, TrialResult

if TYPE_CHECKING:
    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.stages import StageStarted, StudyEvent

EVENTS: Final = "events.jsonl"
LEAST_INTERVAL_S: Final = 1.0
"""Seconds between two writes of the status at least, so that many short runs cost no more than a few long ones."""
HEARTBEAT_S: Final = 10.0
"""Seconds between two writes if nothing happens."""


class StudyWatch:
    """Writes both files within its context; call it with every event of the study.

    A separate thread writes the status, so that no run waits for a disk; the next event raises errors of that thread.

    Args:
        folder: of the study; its lock is held.
        study: its name.
        task: its task.
        engine: name of the engine.
        workers: of the engine.
        results: what earlier processes have finished.
    """

    def __init__(
        self, folder: Path, study: str, task: str, engine: str, workers: int, results: Iterable[TrialResult] = ()
    ) -> None:
        self._folder = folder
        self._clock: StudyClock | None = None
        self._ended_here = 0
        self._known: dict[str, tuple[Status, Cost]] = {r.trial.key: _of(r) for r in results}
        self._running: dict[int, RunStatus] = {}
        self._status = StudyStatus(
            study=study,
            task=task,
            state="preparing",
            process=Owner.here(),
            updated=utc_now(),
            engine=engine,
            workers=workers,
        )
        self._change = threading.Condition()
        self._is_changed = self._is_over = False
        self._problem: OutputError | None = None
        self._thread = threading.Thread(target=self._write_on, name="status of the study", daemon=True)

    def __enter__(self) -> Self:
        self._write()
        status = self._status
        process = {"pid": status.process.pid, "host": status.process.host}
        self._tell("study_started", study=status.study, task=status.task, engine=status.engine, process=process)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._is_over = True
            self._change.notify()
        self._thread.join()
        state: State = "finished" if kind is None else "failed" if issubclass(kind, Exception) else "stopped"
        text = None
        if state == "failed":
            text = error.problem if isinstance(error, EinsearchError) else f"{kind and kind.__name__}: {error}"
        self._running.clear()
        self._status = replace(self._status, state=state, error=text, eta_s=None)
        try:
            self._tell("study_ended", state=state, error=text)
            self._write()
        except OutputError:
            if kind is None:
                raise

    def plan(self, estimate: StudyEstimate) -> None:
        """Record the plan; workers start."""
        self._clock = StudyClock(estimate)
        runs = replace(self._status.runs, expected=estimate.runs)
        self._set(replace(self._status, state="running", runs=runs))
        seconds = None if math.isnan(estimate.seconds) else estimate.seconds
        workers = self._status.workers
        self._tell(
            "study_planned", runs=estimate.runs, train_flops=estimate.train_flops, seconds=seconds, workers=workers
        )

    def timing(self) -> None:
        """Record that all runs have ended; this process does the rest itself."""
        self._set(replace(self._status, state="timing", stage=None))

    def __call__(self, event: StudyEvent) -> None:
        """Record an event."""
        if self._problem is not None:
            raise self._problem
        if isinstance(event, TrialProgress):
            self._go_on(event)
        elif isinstance(event, TrialStarted):
            self._run(_of_trial(event.number, event.trial))
            self._count(queued=-1)
            self._tell("run_started", number=event.number, **_named(event.trial))
        elif isinstance(event, TrialNote):
            self._tell("run_note", number=event.number, text=event.text)
        elif isinstance(event, TrialTriedAgain):
            self._begin()
            self._end(event.number)
            self._count(queued=1, tried_again=1)
            self._tell(
                "run_tried_again",
                number=event.number,
                reason=event.reason,
                deaths=event.deaths,
                log=self._place(event.log),
            )
        elif isinstance(event, TrialFinished):
            self._finish(event)
        else:
            self._start_stage(event)

    def _start_stage(self, event: StageStarted) -> None:
        if self._clock is not None:
            self._clock.start_stage(event)
        stage = StageStatus(event.stage, event.rung, event.rungs, event.budget_flops, event.trials, event.finished)
        runs = replace(self._status.runs, queued=event.trials - event.finished)
        self._set(replace(self._status, stage=stage, runs=runs))
        fields = stage.to_json()
        structures = [str(structure) for structure in event.structures]
        self._tell("stage_started", stage=fields.pop("name"), **fields, structures=structures)

    def _begin(self) -> None:
        if self._clock is not None:
            self._clock.begin()

    def _go_on(self, event: TrialProgress) -> None:
        self._begin()
        before = self._running.get(event.number) or _of_trial(event.number, event.trial)
        loss = event.loss if math.isfinite(event.loss) else None
        self._run(replace(before, step=event.step, steps=event.steps, loss=loss))
        self._set(self._status)

    def _finish(self, event: TrialFinished) -> None:
        self._begin()
        result = event.result
        self._ended_here += 1
        self._end(event.number)
        with self._change:
            self._known[result.trial.key] = _of(result)
        if self._clock is not None:
            self._clock.finish()
        stage = self._status.stage
        if stage is not None:
            stage = replace(stage, finished=stage.finished + 1)
        self._set(replace(self._status, stage=stage))
        self._tell(
            "run_finished",
            number=event.number,
            **_named(result.trial),
            status=result.status,
            loss=result.loss,
            train_flops=result.train_flops,
            seconds=result.elapsed_s,
            error=result.error,
            log=self._place(event.log),
        )

    def _run(self, run: RunStatus) -> None:
        with self._change:
            self._running[run.number] = run

    def _end(self, number: int) -> None:
        with self._change:
            self._running.pop(number, None)

    def _count(self, *, queued: int = 0, tried_again: int = 0) -> None:
        runs = self._status.runs
        changed = replace(runs, queued=max(0, runs.queued + queued), tried_again=runs.tried_again + tried_again)
        self._set(replace(self._status, runs=changed))

    def _set(self, status: StudyStatus) -> None:
        with self._change:
            self._status = status
            self._is_changed = True
            self._change.notify()

    def _write_on(self) -> None:
        """Write changes, at most once a second, and a sign of life now and then, until the study is over."""
        try:
            while True:
                with self._change:
                    self._change.wait_for(lambda: self._is_changed or self._is_over, timeout=HEARTBEAT_S)
                    if self._is_over:
                        return
                    self._is_changed = False
                self._write()
                with self._change:
                    self._change.wait_for(lambda: self._is_over, timeout=LEAST_INTERVAL_S)
        except OutputError as error:
            self._problem = error

    def _write(self) -> None:
        write_atomically(self._folder / STATUS, json.dumps(self._snapshot().to_json(), indent=1) + "\n")

    def _snapshot(self) -> StudyStatus:
        with self._change:
            running, known = tuple(self._running.values()), tuple(self._known.values())
        statuses = [status for status, _ in known]
        clock, rate, left_s = self._clock, None, None
        if clock is not None and self._status.state == "running":
            left_s = clock.left_s()
            if self._ended_here and clock.elapsed_s > 0:
                rate = self._ended_here / clock.elapsed_s * 3600
        return replace(
            self._status,
            updated=utc_now(),
            running=running,
            runs=replace(
                self._status.runs,
                ok=statuses.count("ok"),
                diverged=statuses.count("diverged"),
                failed=statuses.count("failed"),
                running=len(running),
            ),
            cost=_sum([cost for _, cost in known]),
            runs_per_hour=rate,
            eta_s=left_s if left_s is not None and math.isfinite(left_s) else None,
        )

    def _place(self, log: Path | None) -> str | None:
        """The path of a log relative to the study's folder, which may move."""
        return None if log is None else str(log.relative_to(self._folder))

    def _tell(self, event: str, **content: Any) -> None:
        """Add a line to the events; an incomplete line of a killed process is ended first."""
        path = self._folder / EVENTS
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"event": event, "time": now, **content}, ensure_ascii=False)
        try:
            with path.open("ab+") as file:
                if file.tell() and _last_byte(file) != b"\n":
                    file.write(b"\n")
                file.write(line.encode("utf-8", errors="backslashreplace") + b"\n")
        except OSError as error:
            raise write_error(repr(str(path)), error) from error


def _last_byte(file: Any) -> bytes:
    file.seek(-1, 2)
    return bytes(file.read(1))


def _of(result: TrialResult) -> tuple[Status, Cost]:
    return result.status, Cost(result.train_flops, result.total_flops, result.elapsed_s / 3600)


def _sum(costs: Sequence[Cost]) -> Cost:
    def total(of: Callable[[Cost], float]) -> float:
        return math.fsum(map(of, costs))

    return Cost(total(lambda c: c.train_flops), total(lambda c: c.total_flops), total(lambda c: c.core_hours))


def _of_trial(number: int, trial: Trial) -> RunStatus:
    return RunStatus(number, str(trial.structure), trial.width, trial.seed, trial.rate)


def _named(trial: Trial) -> dict[str, Any]:
    """The trial as events describe it."""
    names = ("width", "seed", "rate", "rung", "stage", "budget_flops", "balanced")
    return {"structure": str(trial.structure), **{name: getattr(trial, name) for name in names}}
