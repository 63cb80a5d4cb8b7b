"""The tasks of a cluster that work for a study; submitit submits them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines.local import without_interrupts
from einsearch_cli.search.engines.slurm.worker import work

_LOOK_S: Final = 10.0
"""Seconds between two queries of Slurm's queue, at least."""
_ANSWER_S: Final = 30.0
_MOST_DUDS: Final = 3
"""The most tasks that may end before they start to work, with none that works: a fourth would too."""
_ENDING_S: Final = 15.0


class Team:
    """Tasks of a cluster, replaced when they end.

    Args:
        executor: the executor of submitit.
        arguments: the arguments of `work`.
        has_come: whether a worker has started in the task of this number.
    """

    def __init__(self, executor: Any, arguments: Sequence[object], has_come: Callable[[str], bool]) -> None:
        self._executor = executor
        self._arguments = arguments
        self._has_come = has_come
        self._jobs: list[Any] = []
        self._duds = 0
        self._looked_s = -_LOOK_S
        self.is_local = executor.cluster == "local"

    def keep(self, wanted: int) -> None:
        """Keep this number of tasks queued or running.

        Raises:
            StudyError: the cluster refuses them, or they end before they start.
        """
        if time.monotonic() - self._looked_s < (1.0 if self.is_local else _LOOK_S) and len(self._jobs) >= wanted:
            return
        self._looked_s = time.monotonic()
        alive = self._alive()
        ended = [job for job in self._jobs if job.job_id not in alive]
        self._jobs = [job for job in self._jobs if job.job_id in alive]
        for job in ended:
            self._count(job)
        if (lacking := wanted - len(self._jobs)) > 0:
            self._jobs += self._submitted(lacking)

    def _count(self, job: Any) -> None:
        if self._has_come(job.job_id):
            self._duds = 0
            return
        self._duds += 1
        if self._duds >= _MOST_DUDS:
            raise StudyError(
                f"{self._duds} tasks of the cluster ended before they began to work{_last_line(job)}",
                remedy="fix this error; einsearch must be installed for the nodes as it is here",
            )

    def _submitted(self, number: int) -> list[Any]:
        try:
            # submitit's process for a task of this machine stays in our terminal, and prints a traceback at Ctrl-C.
            quiet = without_interrupts() if self.is_local else nullcontext()
            with quiet, self._executor.batch():
                return [self._executor.submit(work, *self._arguments) for _ in range(number)]
        except Exception as error:  # submitit wraps sbatch's errors in several kinds
            reason = str(error).strip().splitlines()
            raise StudyError(
                f"the cluster takes no tasks: {reason[-1][:300] if reason else type(error).__name__}",
                remedy="check partition, account, time, gpus and memory (--engine-option KEY=VALUE)",
            ) from error

    def _alive(self) -> set[str]:
        """Numbers of the tasks that are queued or running; all tasks while Slurm does not answer."""
        if self.is_local:
            return {job.job_id for job in self._jobs if not job.done()}
        names = [job.job_id for job in self._jobs]
        if not names:
            return set()
        numbers = ",".join(sorted({name.partition("_")[0] for name in names}))
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
        except subprocess.TimeoutExpired:
            return set(names)
        if found.returncode and "Invalid job id" not in found.stderr:
            return set(names)
        return set(found.stdout.split())

    def stop(self) -> None:
        """End all tasks; tasks of this machine, which do not receive Ctrl-C, notice the end within a second."""
        for job in self._jobs if not self.is_local else ():
            with suppress(Exception):  # a cluster that does not answer; its tasks end without this
                job.cancel(check=False)
        deadline_s = time.monotonic() + _ENDING_S
        while self._alive() and time.monotonic() < deadline_s:
            time.sleep(0.1 if self.is_local else 0.5)
        self._jobs = []


def _last_line(job: Any) -> str:
    """The last line that a task printed, shortened for a message."""
    for path in (job.paths.stderr, job.paths.stdout):
        with suppress(OSError):
            lines = [line for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return f": {lines[-1].strip()[:300]}"
    return ""
