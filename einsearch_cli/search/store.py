"""The memory of a study: an Optuna study in an SQLite database inside the study's folder.

One process writes. It holds a lock on the folder, so a trial found running at
the start was left behind by a process that died, and can be run again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import optuna
import sqlalchemy
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from einsearch_cli.errors import OutputError, StudyError
from einsearch_cli.search.trial import Trial, TrialResult
from einsearch_cli.structures import LayerSpec

DATABASE = "study.db"
_RESULT, _FINGERPRINT = "result", "fingerprint"
_DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 2**30),
    "seed": IntDistribution(0, 2**30),
    "rung": IntDistribution(0, 2**30),
}


class StudyStore:
    """Trials to do, running and finished; safe against being killed at any time.

    Use as a context manager. Raises `StudyError` if another process has the
    folder, if the database is damaged, or if it belongs to another study.
    The queue is in memory, as a study can compute it again; the database holds
    every trial that was started, and reading it costs the same for every trial.
    """

    def __init__(self, folder: Path, fingerprint: str, structures: Iterable[LayerSpec]) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        choices = CategoricalDistribution(tuple(str(structure) for structure in structures))
        self._distributions: dict[str, BaseDistribution] = {**_DISTRIBUTIONS, "structure": choices}
        self._lock = FileLock(folder / ".lock")
        self._queue: deque[Trial] = deque()
        self._running: dict[int, optuna.Trial] = {}
        self._results: dict[str, TrialResult] = {}

    def __enter__(self) -> Self:
        self._acquire()
        try:
            with _database_errors(self.folder / DATABASE):
                self._study = _open_study(self.folder / DATABASE)
                self._recover()
            self._check_fingerprint()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise StudyError(
                f"the study folder {self.folder} is in use: one process works on a study at a time",
                remedy="wait for it, or give another --out",
            ) from error
        except OSError as error:
            raise OutputError(
                f"cannot write to the study folder {self.folder}: {error.strerror}",
                remedy="give a folder you can write to",
            ) from error

    def _check_fingerprint(self) -> None:
        known = self._study.user_attrs.get(_FINGERPRINT)
        if known is None:
            self._study.set_user_attr(_FINGERPRINT, self._fingerprint)
        elif known != self._fingerprint:
            raise StudyError(
                f"{self.folder} holds another study: its candidates, task, widths, seeds, budget or optimizer differ",
                remedy=f"give another --out, or delete {self.folder} to start anew",
            )

    def _recover(self) -> None:
        """Read all results, and settle trials that a killed process left running.

        Such a trial is finished if its result is there; if not, it has failed and is done again.
        """
        for frozen in self._study.get_trials(deepcopy=False):
            text = frozen.user_attrs.get(_RESULT)
            result = None if text is None else TrialResult.from_json(json.loads(text))
            if frozen.state == TrialState.RUNNING:
                self._tell(frozen.number, result)
            if result is not None:
                self._results[result.trial.key] = result
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # Left by a kill between the two calls of `take`; the next `take` would be given it for its own.
            self._study.tell(self._study.ask(), state=TrialState.FAIL)

    def add(self, trials: Iterable[Trial]) -> None:
        """Put trials in the queue, except those that are finished.

        A trial that failed for a reason outside of it (a crash) is done again; one that diverged
        would diverge again.
        """
        ended = {key for key, result in self._results.items() if result.status != "failed"}
        known = ended | {trial.key for trial in self._queue}
        self._queue += [trial for trial in trials if trial.key not in known]

    def waiting(self) -> int:
        """Number of trials in the queue."""
        return len(self._queue)

    def take(self) -> tuple[int, Trial] | None:
        """The next trial of the queue, marked as running, with its number; None if the queue is empty."""
        if not self._queue:
            return None
        trial = self._queue.popleft()
        parameters = {
            "structure": str(trial.structure),
            "width": trial.width,
            "seed": trial.seed,
            "rung": trial.rung,
        }
        with _database_errors(self.folder / DATABASE):
            self._study.enqueue_trial(parameters)
            asked = self._study.ask(fixed_distributions=self._distributions)
        self._running[asked.number] = asked
        return asked.number, trial

    def finish(self, number: int, result: TrialResult) -> None:
        """Record the result of a running trial: first what came out, then that it is over."""
        with _database_errors(self.folder / DATABASE):
            self._running.pop(number).set_user_attr(_RESULT, json.dumps(result.to_json()))
            self._tell(number, result)
        self._results[result.trial.key] = result

    def _tell(self, number: int, result: TrialResult | None) -> None:
        if result is not None and result.status == "ok":
            self._study.tell(number, result.loss)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def results(self) -> list[TrialResult]:
        """The latest result of every trial that has one, by rung, then in the order they came in."""
        return sorted(self._results.values(), key=lambda result: result.trial.rung)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Say of any error of the database, or of what is written in it, which file it is and what helps."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, LookupError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0][:200]
        raise StudyError(
            f"cannot use the study database {path}: {reason}; it must be a database that einsearch wrote",
            remedy=f"restore it from a copy, or delete {path} to start anew",
        ) from error


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Not an f-string: a ? or # in the folder's name would end the path and put the file elsewhere.
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    return optuna.create_study(storage=storage, study_name="einsearch", direction="minimize", load_if_exists=True)
