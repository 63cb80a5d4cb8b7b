"""The engine of a Slurm cluster: a job array of workers that take packs from a shared folder."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout
from pydantic import Field, field_validator

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.errors import OutputError, RuleError, SpecError, StudyError
from einsearch_cli.files import write_error
from einsearch_cli.search.engine_options import EngineOptions
from einsearch_cli.search.engines import Engine, register
from einsearch_cli.search.engines.slurm.shared_folder import LeftBehind, StudySide
from einsearch_cli.search.engines.slurm.team import Team
from einsearch_cli.search.job import Job, JobEvent, Pack, Report, TrialFinished, TrialSetup
from einsearch_cli.search.run_folders import elsewhere, keep_elsewhere
from einsearch_cli.search.shipping import pack_up
from einsearch_cli.settings import Duration, PathSetting, Whole, duration_s
from einsearch_cli.training.proxy.trial import failed_result

_MOST_WORKERS: Final = 64
"""The most runs that are trained at once without --workers, however large the partition is."""
SHARED: Final = ".einsearch-slurm"
"""Folder of this engine's folders, in the study's folder or in the given one."""
_BEATS_PER_LEASE: Final = 10
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 1.0


class SlurmOptions(EngineOptions):
    """Options of the `slurm` engine."""

    executor: Literal["slurm", "local"] = "slurm"
    """`local` runs the tasks as processes of this machine, to try a study without a cluster."""

    partition: str | None = None
    """Partition of the tasks; by default the cluster's."""

    account: str | None = None
    """Account that pays for the tasks."""

    qos: str | None = None
    """Quality of service of the tasks."""

    time: Duration = "1h"
    """Time limit of a task. A study may take longer: tasks that end are replaced, and their runs continue."""

    cores: Whole = Field(default=1, ge=1, le=1024)
    """Runs that a task trains at once, each on one core."""

    memory: str | None = None
    """Memory of a task, such as 4GB."""

    gpus: Whole = Field(default=0, ge=0, le=64)
    """Number of GPUs of a task."""

    folder: PathSetting | None = None
    """Folder on a disk that all nodes share, where runs are saved too; by default the study's folder."""

    lease: Duration = "60s"
    """Time without a sign of life after which a worker counts as dead and its runs are tried again."""

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: str | None) -> str | None:
        if memory is not None and not (memory[:-2].isdecimal() and memory[-2:] in ("MB", "GB", "TB")):
            raise RuleError("a whole number with MB, GB or TB is needed", remedy="4GB")
        return memory


@register
class SlurmWorkers(Engine):
    """A job array whose tasks stay for the whole study, so that runs do not wait in Slurm's queue."""

    name = "slurm"
    package = "submitit"
    saves_runs = True
    options_type = SlurmOptions

    def __init__(
        self,
        setup: TrialSetup,
        workers: int | None = None,
        options: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._side: StudySide | None = None
        self._left: LeftBehind | None = None
        self._lock: FileLock | None = None
        """Lock of the folder that an option gives; the study's folder has its own."""
        self._packs = 0
        self._running: dict[int, dict[int, Job]] = {}
        """Unfinished jobs, by their numbers and that of their pack."""
        super().__init__(setup, workers, options, folder)
        if self.chosen.executor == "slurm" and shutil.which("sbatch") is None:
            raise _no_slurm()

    @property
    def chosen(self) -> SlurmOptions:
        """The options of the engine."""
        assert isinstance(self.options, SlurmOptions)
        return self.options

    def default_workers(self) -> int:
        """All usable cores of the partition, at most 64; for the local executor, those of this machine."""
        if self.chosen.executor == "local":
            return os.cpu_count() or 1
        partition = [f"--partition={self.chosen.partition}"] if self.chosen.partition else []
        try:
            command = ["sinfo", "--noheader", "--Node", "--format=%N %C", *partition]
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        except FileNotFoundError:
            raise _no_slurm() from None
        except subprocess.SubprocessError as error:
            said = str(getattr(error, "stderr", None) or error).strip()
            raise StudyError(f"Slurm does not answer: {said}", remedy="try `sinfo`, or give --workers") from error
        nodes = dict(
            line.split() for line in found.stdout.splitlines()
        )  # one line for each partition that a node is in
        cores = sum(
            int(part) for counts in nodes.values() for part in counts.split("/")[:2]
        )  # columns: allocated, idle
        return min(max(cores, 1), _MOST_WORKERS)

    def start_up_s(self, loading_s: float) -> float:
        """Seconds until each worker has loaded torch; the wait in the queue is not known."""
        crowd = self.workers / (os.cpu_count() or 1) if self.chosen.executor == "local" else 1.0
        return loading_s * (1 + max(1.0, crowd))

    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        """Run packs until none is left."""
        side, running = self._started(), self._running
        lease_s, pause_s = _seconds(self.chosen.lease), _SHORTEST_LOOK_S

        def tell(number: int, event: JobEvent) -> None:
            if isinstance(event, TrialFinished):
                del running[number][event.number]
                if not running[number]:
                    del running[number]
            on_event(event)

        while True:
            while len(running) < self.workers and (pack := next_pack()):
                self._packs += 1
                running[self._packs] = {job.number: job for job in pack}
                self._tell_left(tell)
                if rest := running.get(self._packs):
                    side.put(self._packs, tuple(rest.values()))
            if not running:
                return
            self._team.keep(math.ceil(min(len(running), self.workers) / self.chosen.cores))
            side.refuse()
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
            for number, event in side.events():
                if event.number not in running.get(number, {}):
                    continue  # from a worker that counted as dead
                pause_s = _SHORTEST_LOOK_S
                tell(number, event)
            self._tell_left(tell)
            for number in side.lost(lease_s):
                reason = f"its worker on the cluster showed no sign of life for {lease_s:g} s"
                for job in running.pop(number, {}).values():
                    failed = failed_result(job.trial, "failed", reason, 0.0)
                    on_event(TrialFinished(job.number, failed, worker_died=True))
            time.sleep(pause_s)

    def _tell_left(self, tell: Callable[[int, JobEvent], None]) -> None:
        """End the jobs whose results workers of an earlier process have handed in."""
        if self._left is not None:
            packs = {job.number: pack for pack, jobs in self._running.items() for job in jobs.values()}
            for end in self._left.ends([job for jobs in self._running.values() for job in jobs.values()]):
                tell(packs[end.number], end)

    def _started(self) -> StudySide:
        """The shared folder, with its tasks started."""
        if self._side is not None:
            return self._side
        base = self._base()
        try:
            root = self._taken(base) / secrets.token_hex(4)
            side = StudySide(root, pack_up(self.setup))
        except (OSError, OutputError) as error:
            raise write_error(f"shared folder {base}", error) from error
        lease_s = _seconds(self.chosen.lease)
        arguments = (str(root), self.chosen.cores, lease_s / _BEATS_PER_LEASE, 2 * lease_s)
        gpus = max(self.chosen.gpus, int(self.setup.devices[0].startswith("cuda")))
        self._team = Team(_executor(self.chosen, root, gpus), arguments, side.has_come)
        self._over = threading.Event()
        self._beating = threading.Thread(target=_beat, args=(side, lease_s / _BEATS_PER_LEASE, self._over), daemon=True)
        self._beating.start()
        self._side = side
        return side

    def _base(self) -> Path:
        """The folder in which every process of this study has its shared folder; a given one may serve several studies."""
        if self.chosen.folder is None:
            return (default_cache_folder() if self.folder is None else self.folder).resolve() / SHARED
        above = self.chosen.folder.resolve() / SHARED
        if self.folder is None:
            return above
        known = elsewhere(self.folder)
        return known if known is not None and known.parent == above else _new_base(above)

    def _taken(self, base: Path) -> Path:
        """Take the study's folder for this process; another one if a copy of the study has it."""
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_folder_of_others(base)
        if self.folder is not None and self.chosen.folder is not None:
            self._lock = FileLock(base / ".lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return self._taken(_new_base(base.parent))
            keep_elsewhere(self.folder, base)
            self.setup = replace(self.setup, folder=str(base))
        if self.folder is not None:
            self._left = LeftBehind(base)
        return base

    def stop(self) -> None:
        """End all tasks and remove the shared folder, except for results that the study has not taken."""
        if self._side is not None:
            self._side.stop()
            self._team.stop()
            self._over.set()
            self._beating.join()
            self._side.remove({job.trial.key for jobs in self._running.values() for job in jobs.values()})
            if self._left is not None:
                self._left.tidy()
            self._side = self._left = None
            self._running.clear()
            if self._lock is not None:
                self._lock.release()


def _new_base(above: Path) -> Path:
    return above / f"study-{secrets.token_hex(8)}"


def _refuse_folder_of_others(folder: Path) -> None:
    """Refuse a folder that others can write to: tasks execute its files, as submitit passes functions as pickles."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StudyError(
            f"the shared folder {folder} belongs to another user, or others can write to it: the cluster executes its files",
            remedy=f"give another folder, or make it yours alone: chmod 700 {folder}",
        )


def _executor(chosen: SlurmOptions, root: Path, gpus: int) -> Any:
    import submitit

    executor = submitit.AutoExecutor(root / "tasks", cluster=chosen.executor)
    executor.update_parameters(
        name="einsearch",
        timeout_min=max(1, math.ceil(_seconds(chosen.time) / 60)),
        cpus_per_task=chosen.cores,
        gpus_per_node=gpus,
    )
    given = {"partition": chosen.partition, "account": chosen.account, "qos": chosen.qos, "mem": chosen.memory}
    executor.update_parameters(**{f"slurm_{key}": value for key, value in given.items() if value is not None})
    return executor


def _beat(side: StudySide, beat_s: float, over: threading.Event) -> None:
    while not over.wait(beat_s):
        side.beat()


def _seconds(duration: str) -> float:
    return duration_s(duration) or 0.0


def _no_slurm() -> SpecError:
    return SpecError(
        "the engine slurm needs Slurm: sbatch is not found on this machine",
        remedy="run it on a login node of the cluster, or try it here: --engine-option executor=local",
    )
