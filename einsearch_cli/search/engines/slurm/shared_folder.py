"""The shared folder of a study and its workers on other machines; every file in it appears by one rename.

    shipment.json          what workers need besides packs
    study.beat             a number that rises while the study runs
    stop                   the study is over
    refused.json           why a worker cannot work
    waiting/PACK.json      jobs that no worker has
    taken/PACK@WORKER.json the same file, renamed by the worker that has it
    said/….json            an ended job, or a note on a running one; the study removes it
    beats/WORKER.json      a number that rises while the worker lives, and how far its runs are

Clocks of different machines are never compared. A process is dead if it does not change a file for a while, by the
clock of the observer. Two workers may train one pack if the first was taken for dead: the study counts the first end of
each job.

Every process of a study has its own folder. The folders of killed processes stay until the study has all results that
were handed in there.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import EinsearchError, StudyError
from einsearch_cli.files import write_atomically
from einsearch_cli.search.job import Job, JobEvent, Pack, TrialFinished, TrialNote, TrialProgress, TrialSetup
from einsearch_cli.search.shipping import Shipment, ShippedFile
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.proxy.trial import Trial, TrialResult

_FOLDERS: Final = ("waiting", "taken", "said", "beats")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _replace(path: Path, document: Any) -> None:
    """Write a file that may be lost if the machine crashes: without waiting for the disk."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(path)


def _names(folder: Path) -> list[str]:
    """Names of the files that are whole."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))


class _Watched:
    """When a file was last seen to change, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}

    def silent_s(self, path: Path) -> float:
        """Seconds since the file has changed; a missing file counts from when it was first missed."""
        text = ""
        with suppress(OSError):
            text = path.read_text(encoding="utf-8")
        before, since_s = self._seen.get(path.name, (None, 0.0))
        if before != text:
            self._seen[path.name] = (text, time.monotonic())
            return 0.0
        return time.monotonic() - since_s


class StudySide:
    """The study's side of the folder."""

    def __init__(self, root: Path, shipment: Shipment) -> None:
        self.root = root
        self._watched = _Watched()
        self._told: dict[str, Any] = {}
        self._beats = 0
        for name in _FOLDERS:
            (root / name).mkdir(parents=True)
        write_atomically(root / "shipment.json", json.dumps(asdict(shipment)))
        self.beat()

    def beat(self) -> None:
        """Show that the study is alive."""
        self._beats += 1
        _replace(self.root / "study.beat", self._beats)

    def put(self, number: int, pack: Pack) -> None:
        """Offer a pack to workers."""
        document = json.dumps([job.to_json() for job in pack])
        write_atomically(self.root / "waiting" / f"{number}.json", document)

    def events(self) -> Iterator[tuple[int, JobEvent]]:
        """Events since the last call, with the numbers of the packs; some may come twice."""
        for name in _names(self.root / "said"):
            path = self.root / "said" / name
            document = _read(path)
            yield document["pack"], _event(document)
            path.unlink()  # removed after the study has read it
        for name in _names(self.root / "taken"):  # from the worker that has the pack now
            yield from self._progress(name.partition("@")[2])

    def _progress(self, name: str) -> Iterator[tuple[int, TrialProgress]]:
        try:
            runs = _read(self.root / "beats" / name)["runs"]
        except FileNotFoundError:  # it has taken a pack, but not given a sign of life yet
            return
        for number, run in runs.items():
            if self._told.get(number) != run:
                self._told[number] = run
                job = Job.from_json(run["job"])
                routing = tuple(map(RoutingStatistics.from_json, run["routing"]))
                yield run["pack"], TrialProgress(job.number, job.trial, run["step"], run["steps"], run["loss"], routing)

    def lost(self, lease_s: float) -> list[int]:
        """Packs whose worker has been silent for this long; they are taken away from it."""
        found = []
        for name in _names(self.root / "taken"):
            number, _, worker = name.removesuffix(".json").partition("@")
            if self._watched.silent_s(self.root / "beats" / f"{worker}.json") > lease_s:
                (self.root / "taken" / name).unlink(missing_ok=True)
                found.append(int(number))
        return found

    def has_come(self, task: str) -> bool:
        """Whether a worker has started in a task of the cluster."""
        return any(name.startswith(f"{task}-") for name in _names(self.root / "beats"))

    def refuse(self) -> None:
        """Raise an error if a worker has reported that it cannot work.

        Raises:
            StudyError: the worker's reason.
        """
        path = self.root / "refused.json"
        if path.exists():
            document = _read(path)
            raise StudyError(document["problem"], remedy=document["remedy"])

    def stop(self) -> None:
        """Ask the workers to end."""
        _stop(self.root)

    def remove(self, wanted: Collection[str]) -> None:
        """Remove the folder, unless it has results of trials with these keys: they are for the study's next process."""
        ends = (end for _, end in _handed_in(self.root))
        if not any(end.result.trial.key in wanted for end in ends):
            shutil.rmtree(self.root, ignore_errors=True)


class LeftBehind:
    """Results that workers handed in for processes of the study that are gone.

    Args:
        base: the folder in which every process of the study has its own folder.
    """

    def __init__(self, base: Path) -> None:
        self._roots = [path.parent for path in base.glob("*/shipment.json")]
        self._found: dict[str, tuple[Path, TrialFinished]] = {}
        self._seen: set[Path] = set()
        for root in self._roots:
            _stop(root)

    def ends(self, jobs: Iterable[Job]) -> Iterator[TrialFinished]:
        """The ends of these jobs, if they were handed in, now or since."""
        for path, end in (found for root in self._roots for found in _handed_in(root, self._seen)):
            self._seen.add(path)
            self._found.setdefault(end.result.trial.key, (path, end))
        for job in jobs if self._found else ():
            if (found := self._found.pop(job.trial.key, None)) is not None:
                path, end = found
                yield replace(end, number=job.number, result=replace(end.result, trial=job.trial))
                path.unlink(missing_ok=True)  # removed after the study has read it

    def tidy(self) -> None:
        """Remove the folders that are empty."""
        kept = {path.parent.parent for path, _ in self._found.values()}
        for root in self._roots:
            if root not in kept:
                shutil.rmtree(root, ignore_errors=True)


def _stop(root: Path) -> None:
    with suppress(OSError):
        (root / "stop").touch()


def _handed_in(root: Path, seen: Collection[Path] = ()) -> Iterator[tuple[Path, TrialFinished]]:
    """Results that the study has not taken, with their files; failed runs are left out, as they are tried again anyway."""
    with suppress(FileNotFoundError):
        for path in (root / "said" / name for name in _names(root / "said")):
            if path not in seen:
                with suppress(
                    OSError, ValueError, LookupError, TypeError, EinsearchError
                ):  # written by another version
                    event = _event(_read(path))
                    if isinstance(event, TrialFinished) and event.result.status != "failed":
                        yield path, event


class WorkerSide:
    """A worker's side of the folder.

    Args:
        root: the folder.
        name: the worker's name, which no other worker has.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self._watched = _Watched()
        self._packs: dict[int, dict[int, Job]] = {}
        self._runs: dict[int, dict[str, Any]] = {}
        self._beats = self._said = 0

    def shipment(self) -> Shipment:
        """Everything that workers need besides packs."""
        document = _read(self.root / "shipment.json")
        setup = document["setup"]
        plugins, data = (tuple(ShippedFile(**file) for file in document[name]) for name in ("plugins", "data"))
        return Shipment(
            TrialSetup(**setup),
            plugins,
            data,
            document["versions"],
        )

    def take(self) -> Pack:
        """Take a waiting pack; an empty one if none waits."""
        for name in sorted(_names(self.root / "waiting"), key=lambda name: int(name.removesuffix(".json"))):
            number = name.removesuffix(".json")
            taken = self.root / "taken" / f"{number}@{self.name}.json"
            with suppress(FileNotFoundError):  # another worker was faster
                (self.root / "waiting" / name).rename(taken)
                jobs = tuple(map(Job.from_json, _read(taken)))
                self._packs[int(number)] = {job.number: job for job in jobs}
                return jobs
        return ()

    def tell(self, event: JobEvent) -> None:
        """Record the progress of a run, or hand in a note or the end of a job."""
        pack = next(pack for pack, jobs in self._packs.items() if event.number in jobs)
        if isinstance(event, TrialProgress):
            self._runs[event.number] = {
                "pack": pack,
                "job": self._packs[pack][event.number].to_json(),
                "step": event.step,
                "steps": event.steps,
                "loss": event.loss,
                "routing": [statistics.to_json() for statistics in event.routing],
            }
            return
        self._said += 1
        document = json.dumps({"pack": pack, "number": event.number, **_document(event)})
        write_atomically(self.root / "said" / f"{self.name}-{self._said:09}.json", document)
        if isinstance(event, TrialNote):
            return
        self._runs.pop(event.number, None)
        del self._packs[pack][event.number]
        if not self._packs[pack]:
            del self._packs[pack]
            (self.root / "taken" / f"{pack}@{self.name}.json").unlink(missing_ok=True)

    def give_back(self) -> None:
        """Return unfinished jobs for other workers, unless the study has taken the pack away."""
        for number, jobs in self._packs.items():
            taken = self.root / "taken" / f"{number}@{self.name}.json"
            if taken.exists():
                document = json.dumps([job.to_json() for job in jobs.values()])
                write_atomically(self.root / "waiting" / f"{number}.json", document)
                taken.unlink(missing_ok=True)
        self._packs, self._runs = {}, {}

    def beat(self) -> None:
        """Show that this worker is alive, and the progress of its runs."""
        self._beats += 1
        runs: Mapping[int, Any] = dict(self._runs)
        _replace(self.root / "beats" / f"{self.name}.json", {"beats": self._beats, "runs": runs})

    def is_over(self, patience_s: float) -> bool:
        """Whether the study has ended, or has been silent for this long."""
        if (self.root / "stop").exists() or not self.root.exists():
            return True
        return self._watched.silent_s(self.root / "study.beat") > patience_s

    def refuse(self, error: EinsearchError) -> None:
        """Report why no worker can work."""
        document = {"problem": error.problem, "remedy": error.remedy}
        write_atomically(self.root / "refused.json", json.dumps(document))


def _document(event: TrialNote | TrialFinished) -> dict[str, Any]:
    if isinstance(event, TrialNote):
        return {"trial": event.trial.to_json(), "text": event.text}
    return {"result": event.result.to_json(), "worker_died": event.worker_died, "output": event.output}


def _event(document: Mapping[str, Any]) -> TrialNote | TrialFinished:
    number = document["number"]
    if "text" in document:
        return TrialNote(number, Trial.from_json(document["trial"]), document["text"])
    result = TrialResult.from_json(document["result"])
    return TrialFinished(number, result, document["worker_died"], document["output"])
