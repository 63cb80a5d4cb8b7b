"""The store of a study: an Optuna study in an SQLite database inside the study's folder.

One process writes. It holds a lock on the folder, so a trial found running at the start was left behind by a process
that died, and can be run again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import optuna
import sqlalchemy
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from einsearch_cli.errors import StudyError
from einsearch_cli.files import write_error
from einsearch_cli.search.owner import read_owner, remove_owner, write_owner
from einsearch_cli.settings import differences
from einsearch_cli.training.proxy.trial import Trial, TrialResult

DATABASE = "study.db"
RESULTS = "results.json"
"""The file of results next to the database; every call rewrites it from the database."""
_RESULT, _FINGERPRINT, _SETTINGS, _STRUCTURE = "result", "fingerprint", "settings", "structure"
_GOES_ON = "make room and run the same command again: finished runs are kept"
_WRITABLE = "make it writable and run the same command again: finished runs are kept"
_REFUSALS = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EACCES,
    "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_IOERR": errno.EIO,
}
"""Messages of SQLite when the system does not let it write, although the database is sound."""
_LITTLE_ROOM = 1 << 16
"""Bytes of free disk below which any refusal is blamed on a full disk, as the journal needs some too."""
_DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "width": IntDistribution(1, 2**30),
    "seed": IntDistribution(0, 2**30),
    "rung": IntDistribution(0, 2**30),
    "rate": FloatDistribution(1e-12, 1e12, log=True),
}


class StudyStore:
    """Trials waiting, running and finished; safe against being killed at any time.

    Use as a context manager. Raises `StudyError` if another process has the folder, if the database is damaged, or if
    it belongs to another study. `settings` says in words how another study differs; a `fingerprint` of None accepts any
    study. The queue is in memory, as a study can compute it again. The database holds every trial that was started;
    reading it takes equally long for every trial.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str | None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._settings = dict(settings or {})
        self._lock = FileLock(folder / ".lock")
        self._queue: deque[Trial] = deque()
        self._running: dict[int, optuna.Trial] = {}
        self._results: dict[str, TrialResult] = {}
        self._given: set[str] = set()
        """Keys of trials that this process has started; the next process repeats those that crash."""
        self._deaths: Counter[str] = Counter()
        """Number of workers that died while they trained a trial, by its key."""

    def __enter__(self) -> Self:
        self._acquire()
        try:
            write_owner(self.folder)
            with _database_errors(self.folder / DATABASE):
                self._refuse_lost_database()
                self._study = _open_study(self.folder / DATABASE)
                self._recover()
                self._check_fingerprint()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        remove_owner(self.folder)
        self._lock.release()

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            owner = read_owner(self.folder)
            raise StudyError(
                f"the study folder {self.folder} is in use{f' by {owner}' if owner else ''}: "
                "one process works on a study at a time",
                remedy=f"wait for it (`einsearch status {self.folder}` says how far it is), or give another --out",
            ) from error
        except OSError as error:
            raise write_error(f"to the study folder {self.folder}", error, full=_GOES_ON) from error

    def _refuse_lost_database(self) -> None:
        """Refuse a new study in a folder with results whose database is lost, since it would replace them."""
        path = self.folder / DATABASE
        if not (path.exists() and path.stat().st_size) and (self.folder / RESULTS).exists():
            raise StudyError(
                f"{path} is {'empty' if path.exists() else 'missing'} and {RESULTS} next to it holds results: "
                "a new study in this folder would replace them",
                remedy=f"restore {path} from a copy, or give another --out",
            )

    def _check_fingerprint(self) -> None:
        if self._fingerprint is None:
            return
        known = self._study.user_attrs.get(_FINGERPRINT)
        before = self._study.user_attrs.get(_SETTINGS)
        if known is not None and known != self._fingerprint:
            self._refuse_former_task(before or {})
            self._refuse_former_format(before or {})
            changed = differences(before, self._settings) if before and self._settings else []
            listed = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
            raise StudyError(
                f"{self.folder} holds another study: " + (listed or "its task or optimizer differs"),
                remedy=f"give another --out, or delete {self.folder} to start over",
            )
        if known is None:
            self._study.set_user_attr(_FINGERPRINT, self._fingerprint)
        if before is None and self._settings:
            self._study.set_user_attr(_SETTINGS, self._settings)

    def _refuse_former_format(self, before: Mapping[str, Any]) -> None:
        """Refuse studies of earlier formats by their number alone, as other differences say nothing more."""
        theirs, ours = before.get("format", 1), self._settings.get("format", 1)
        if before and theirs != ours:
            raise StudyError(
                f"{self.folder} holds a study of format {theirs}: this version of einsearch has format {ours}, whose runs have "
                "other keys",
                remedy="give another --out to begin again; results.json and report.html of that study stay as they are",
            )

    def _refuse_former_task(self, before: Mapping[str, Any]) -> None:
        """Refuse studies of a task whose format has changed; a study without a number has format 1."""
        task, ours = self._settings.get("task"), self._settings.get("task_format", 1)
        theirs = before.get("task_format", 1)
        if before.get("task") == task and theirs != ours:
            raise StudyError(
                f"{self.folder} holds a study of the {task} task in format {theirs}: this version of einsearch has format "
                f"{ours}, whose losses cannot be compared with it",
                remedy="give another --out to begin again; results.json and report.html of that study stay as they are",
            )

    def _recover(self) -> None:
        """Read all results, and settle trials that a killed process left running.

        Such a trial is finished if its result exists; otherwise it has failed and is repeated.
        """
        for frozen in self._study.get_trials(deepcopy=False):
            text = frozen.user_attrs.get(_RESULT)
            result = None if text is None else TrialResult.from_json(json.loads(text))
            if frozen.state == TrialState.RUNNING:
                self._tell(frozen.number, result)
            if result is not None:
                self._results[result.trial.key] = result
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # A kill between the two calls of `take` left this trial; the next `take` would receive it.
            self._study.tell(self._study.ask(), state=TrialState.FAIL)

    def add(self, trials: Iterable[Trial]) -> None:
        """Put trials in the queue, except those that are finished.

        A trial that failed for an outside reason (a crash) is repeated by the next process; one that diverged would
        diverge again.
        """
        ended = {key for key, result in self._results.items() if result.status != "failed"}
        known = ended | self._given | {trial.key for trial in self._queue}
        self._queue += [trial for trial in trials if trial.key not in known]

    def waiting(self) -> int:
        """Number of trials in the queue."""
        return len(self._queue)

    def take(self) -> tuple[int, Trial] | None:
        """The next trial of the queue, marked as running, with its number; None if the queue is empty."""
        if not self._queue:
            return None
        trial = self._queue.popleft()
        self._given.add(trial.key)
        parameters = {"width": trial.width, "seed": trial.seed, "rung": trial.rung, "rate": trial.rate}
        with _database_errors(self.folder / DATABASE):
            self._study.enqueue_trial(parameters, user_attrs={_STRUCTURE: str(trial.structure)})
            asked = self._study.ask(fixed_distributions=_DISTRIBUTIONS)
        self._running[asked.number] = asked
        return asked.number, trial

    def take_pack(self, most: int) -> list[tuple[int, Trial]]:
        """The next trial of the queue, with others that can train in one pack with it; empty if the queue is empty.

        A trial whose worker died is given alone, so that it cannot affect others again.
        """
        if not self._queue:
            return []
        first, *others = self._queue
        if not self._deaths[first.key]:
            alike = (t for t in others if t.pack_key == first.pack_key and not self._deaths[t.key])
            packed = [first, *islice(alike, most - 1)]
        else:
            packed = [first]
        rest = [trial for trial in self._queue if trial not in packed]
        self._queue = deque(packed + rest)
        return [taken for _ in packed if (taken := self.take()) is not None]

    def finish(self, number: int, result: TrialResult) -> None:
        """Record the result of a running trial: first the result itself, then that the trial is over."""
        with _database_errors(self.folder / DATABASE):
            self._running.pop(number).set_user_attr(_RESULT, json.dumps(result.to_json()))
            self._tell(number, result)
        self._results[result.trial.key] = result

    def count_death(self, trial: Trial) -> int:
        """Record that a worker died with a trial; returns how many have since this process has the study."""
        self._deaths[trial.key] += 1
        return self._deaths[trial.key]

    def put_back(self, number: int, trial: Trial) -> None:
        """Put a running trial at the front of the queue again, without a result."""
        with _database_errors(self.folder / DATABASE):
            del self._running[number]
            self._tell(number, None)
        self._queue.appendleft(trial)

    def _tell(self, number: int, result: TrialResult | None) -> None:
        if result is not None and result.status == "ok":
            self._study.tell(number, result.loss)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def result_of(self, trial: Trial) -> TrialResult | None:
        """The latest result of a trial, if it has one; a study with other rungs may have trained it."""
        found = self._results.get(trial.key)
        return None if found is None else replace(found, trial=trial)

    def results(self) -> list[TrialResult]:
        """The latest result of every trial that has one, by budget, then in order of arrival."""
        return sorted(self._results.values(), key=lambda result: result.trial.budget_flops)

    def noted(self, name: str) -> Any:
        """The value noted under this name, or None."""
        return self._study.user_attrs.get(name)

    def note(self, name: str, value: Any) -> None:
        """Note a JSON value: a decision that must stay the same when the study continues."""
        with _database_errors(self.folder / DATABASE):
            self._study.set_user_attr(name, value)


@dataclass(frozen=True)
class StoredStudy:
    """A study in a folder, which is only read: its notes, and how many of its runs have ended."""

    ended: int
    notes: Mapping[str, Any]

    def noted(self, name: str) -> Any:
        """The value noted under this name, or None."""
        return self.notes.get(name)

    def note(self, name: str, value: Any) -> None:
        """Keep nothing: what is noted belongs to the process that trains the study."""

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> Self | None:
        """The study of this fingerprint in a folder, which another process may be working on; None without one.

        Raises:
            StudyError: if the folder holds another study, or a database that cannot be read.
        """
        path = folder / DATABASE
        if not (path.exists() and path.stat().st_size):
            return None
        with _database_errors(path):
            study = _open_study(path)
            notes = study.user_attrs
            keys = {
                TrialResult.from_json(json.loads(trial.user_attrs[_RESULT])).trial.key
                for trial in study.get_trials(deepcopy=False)
                if _RESULT in trial.user_attrs
            }
        if notes.get(_FINGERPRINT, fingerprint) != fingerprint:
            raise StudyError(f"{folder} holds another study", remedy="give another --out")
        return cls(len(keys), notes)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Turn any error of the database, or of its content, into a message with the file and a remedy."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, LookupError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        original = getattr(cause, "orig", None) or cause
        name = str(getattr(original, "sqlite_errorname", ""))
        refused = next((number for start, number in _REFUSALS.items() if name.startswith(start)), None)
        if refused is not None:
            full = shutil.disk_usage(path.parent).free < _LITTLE_ROOM
            number = errno.ENOSPC if full else refused
            system = OSError(number, os.strerror(number))
            raise write_error(f"the study database {path}", system, full=_GOES_ON, otherwise=_WRITABLE) from error
        if name == "SQLITE_BUSY":
            raise StudyError(
                f"the study database {path} is in use by another program", remedy="close it, then run again"
            ) from error
        raise StudyError(
            f"cannot use the study database {path}: {str(original).splitlines()[0][:200]}; "
            "it must be a database that einsearch wrote",
            remedy="restore it from a copy, or give another --out for a new study",
        ) from error


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # This is not an f-string: a ? or # in the folder's name would end the path and put the file elsewhere.
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    return optuna.create_study(storage=storage, study_name="einsearch", direction="minimize", load_if_exists=True)
