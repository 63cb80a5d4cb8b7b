"""The memory of a study: an Optuna study in an SQLite database inside the study's folder.

One process writes. It holds a lock on the folder, so a trial found running at
the start was left behind by a process that died, and can be run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import optuna
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from einsearch_cli.errors import OutputError, StudyError
from einsearch_cli.search.trial import Trial, TrialResult
from einsearch_cli.structures import Structure

DATABASE = "study.db"
_TRIAL, _RESULT, _FINGERPRINT = "trial", "result", "fingerprint"
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 2**30),
    "seed": IntDistribution(0, 2**30),
    "rung": IntDistribution(0, 2**30),
}


class StudyStore:
    """Trials waiting, running and finished; safe against being killed at any time.

    Use as a context manager. Raises `StudyError` if another process has the
    folder, if the database is damaged, or if it belongs to another study.
    """

    def __init__(self, folder: Path, fingerprint: str, structures: Iterable[Structure]) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        choices = CategoricalDistribution(tuple(str(structure) for structure in structures))
        self._distributions: dict[str, BaseDistribution] = {**_DISTRIBUTIONS, "structure": choices}
        self._lock = FileLock(folder / ".lock")
        self._running: dict[int, optuna.Trial] = {}

    def __enter__(self) -> Self:
        self._acquire()
        try:
            self._study = _open_study(self.folder / DATABASE)
            self._check_fingerprint()
            self._recover()
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
        """Settle trials that a killed process left running: finished if the result is there, else to do again.

        Trials that failed for a reason outside of them (a crash) are tried again as well.
        """
        retry = []
        for frozen in self._study.get_trials(deepcopy=False):
            result = self._result(frozen)
            if frozen.state == TrialState.RUNNING:
                if result is None:
                    self._study.tell(frozen.number, state=TrialState.FAIL)
                    retry.append(self._trial(frozen))
                else:
                    self._tell(frozen.number, result)
            elif result is not None and result.status == "failed":
                retry.append(result.trial)
        done = {result.trial.key for result in self.results() if result.status != "failed"}
        waiting = {self._trial(f).key for f in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))}
        self._enqueue(trial for trial in retry if trial.key not in done | waiting)

    def add(self, trials: Iterable[Trial]) -> None:
        """Put trials in the queue that are neither in it nor run already."""
        known = {self._trial(frozen).key for frozen in self._study.get_trials(deepcopy=False)}
        self._enqueue(trial for trial in trials if trial.key not in known)

    def _enqueue(self, trials: Iterable[Trial]) -> None:
        for trial in {trial.key: trial for trial in trials}.values():
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.WAITING,
                    params={
                        "structure": str(trial.structure),
                        "width": trial.width,
                        "seed": trial.seed,
                        "rung": trial.rung,
                    },
                    distributions=self._distributions,
                    user_attrs={_TRIAL: json.dumps(trial.to_json())},
                )
            )

    def waiting(self) -> int:
        """Number of trials in the queue."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def take(self) -> tuple[int, Trial] | None:
        """The next trial of the queue, marked as running, with its number; None if the queue is empty."""
        if not self.waiting():
            return None
        asked = self._study.ask()
        self._running[asked.number] = asked
        return asked.number, Trial.from_json(json.loads(asked.user_attrs[_TRIAL]))

    def finish(self, number: int, result: TrialResult) -> None:
        """Record the result of a running trial: first what came out, then that it is over."""
        self._running.pop(number).set_user_attr(_RESULT, json.dumps(result.to_json()))
        self._tell(number, result)

    def _tell(self, number: int, result: TrialResult) -> None:
        if result.status == "ok":
            self._study.tell(number, result.loss)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def results(self) -> list[TrialResult]:
        """The latest result of every trial that has one, in the order of the queue."""
        latest: dict[str, TrialResult] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state not in _OPEN and (result := self._result(frozen)) is not None:
                latest[result.trial.key] = result
        return list(latest.values())

    @staticmethod
    def _trial(frozen: optuna.trial.FrozenTrial) -> Trial:
        return Trial.from_json(json.loads(frozen.user_attrs[_TRIAL]))

    @staticmethod
    def _result(frozen: optuna.trial.FrozenTrial) -> TrialResult | None:
        text = frozen.user_attrs.get(_RESULT)
        return None if text is None else TrialResult.from_json(json.loads(text))


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 30}})
        study = optuna.create_study(storage=storage, study_name="einsearch", direction="minimize", load_if_exists=True)
        study.get_trials(deepcopy=False)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, KeyError, ValueError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0][:200]
        raise StudyError(
            f"cannot read the study database {path}: {reason}; it must be a database that einsearch wrote",
            remedy=f"restore it from a copy, or delete {path} to start anew",
        ) from error
    return study
