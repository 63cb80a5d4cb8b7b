"""Where studies of the papers stand, how they are read, and how finished ones are brought in."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from einsearch_cli.errors import SpecError
from einsearch_cli.files import write_atomically
from einsearch_cli.reports import StudyReport
from einsearch_cli.reports.stored import read_study, read_training
from einsearch_cli.reports.training import FinishedRun, TrainingReport, curve_of, write_training_results
from einsearch_cli.reports.training_page import render_training
from einsearch_cli.settings import differences
from einsearch_cli.structures import LayerSpec, parse_layer

ROOT = Path(__file__).parents[2]
TRAINED = ("ffn-rates", "ffn", "guided", "wide", "overtraining")
RANKED = (
    *("taxonomy-teacher", "taxonomy-teacher-small", "taxonomy-text", "taxonomy-text-small"),
    *("taxonomy-pixels", "taxonomy-pixels-small"),
    *("experts", "experts-small"),
)
TIMINGS = "rate_transfer.json"
NEARLY_ALL = 0.9
"""A rung of an unfinished study counts if no structure has fewer than this share of the runs of another."""


@dataclass(frozen=True)
class TrainedRuns:
    """Runs of one training spec by name, for every seed that has finished runs."""

    name: str
    seeds: Mapping[int, Mapping[str, Mapping[str, Any]]]

    def both(self, *names: str) -> Iterator[tuple[Mapping[str, Any], ...]]:
        """These runs of each seed that has all of them."""
        for runs in self.seeds.values():
            if all(name in runs for name in names):
                yield tuple(runs[name] for name in names)

    def complete(
        self, kinds: Sequence[str], sizes: Sequence[int], least: int
    ) -> tuple[list[int], list[Mapping[str, Mapping[str, Any]]]]:
        """Sizes at which all kinds were trained by each of some seeds, and the runs of these seeds.

        Seeds are replicates only if they have the same sizes: as many seeds as have `least` sizes in common, and these.
        """

        def of(mine: Mapping[str, Any]) -> set[int]:
            return {size for size in sizes if all(f"{kind}-{size}" in mine for kind in kinds)}

        seeds = [mine for mine in self.seeds.values() if len(of(mine)) >= least]
        common = set.intersection(*map(of, seeds)) if seeds else set()
        return (sorted(common), seeds) if len(common) >= least else ([], [])

    @property
    def names(self) -> list[str]:
        """Names of runs, in the order of the spec."""
        return list(dict.fromkeys(name for runs in self.seeds.values() for name in runs))


@dataclass(frozen=True)
class Store:
    """The files that claims are judged by."""

    root: Path = ROOT

    @property
    def reproduction(self) -> Path:
        return self.root / "examples" / "reproduction"

    def ranked(self, name: str) -> StudyReport | None:
        """A study of `einsearch rank` by its folder in examples/ or examples/reproduction/; None before it has finished."""
        for folder in (self.reproduction / name, self.root / "examples" / name):
            if (folder / "results.json").exists():
                return self._read[folder]
        return None

    @cached_property
    def _read(self) -> Mapping[Path, StudyReport]:
        class Read(dict[Path, StudyReport]):
            def __missing__(self, folder: Path) -> StudyReport:
                self[folder] = read_study(folder)
                return self[folder]

        return Read()

    def trained(self, name: str) -> TrainedRuns | None:
        """The runs of a training spec, whose folders are NAME-SEED; None before the first has finished."""
        seeds = {}
        for seed in range(100):
            path = self.reproduction / f"{name}-{seed}" / "results.json"
            if path.exists():
                seeds[seed] = {run["name"]: run for run in _runs_of(path)}
        _refuse_unlike(name, seeds)
        return TrainedRuns(name, seeds) if any(seeds.values()) else None

    def timings(self, name: str) -> Any:
        """A file of benchmarks/results/; None where it is not there."""
        path = self.root / "benchmarks" / "results" / name
        return _json(path) if path.exists() else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read as JSON: {error}", remedy="copy it again") from error


def _runs_of(path: Path) -> list[dict[str, Any]]:
    """The finished runs in the results.json of a training spec."""
    document = _json(path)
    try:
        return [run for run in document["runs"] if run["name"] and math.isfinite(run["loss"]) and run["flops"] > 0]
    except (LookupError, TypeError) as error:
        raise SpecError(
            f"{path} does not hold the results of `einsearch train`: {type(error).__name__}: {error}",
            remedy="give the results.json of `einsearch train`",
        ) from error


def _refuse_unlike(name: str, seeds: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> None:
    """Seeds are replicates only if their runs differ in the seed alone."""
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for seed, runs in seeds.items():
        for run, found in runs.items():
            if "spec" not in found:
                continue
            settings = {**found["spec"], "data": found["data_digest"], "seed": None}
            before = first.setdefault(run, (seed, settings))
            if unlike := differences(dict(before[1]), settings):
                raise SpecError(
                    f"examples/reproduction/{name}-{seed}: run {run} has other settings than in {name}-{before[0]}: {unlike[0]}",
                    remedy="train both with one spec, or remove one of the folders",
                )


def collect(runs: Path, root: Path = ROOT) -> list[Path]:
    """Bring studies of the papers in from the folder that holds their folders: results and reports, no checkpoints.

    Of studies that have not finished, the runs of a training spec that have are taken, and the rungs of a ranking at which
    all structures have. Returns what was written.
    """
    store, written = Store(root), []
    for name in RANKED:
        there = _copied(runs / name, store.reproduction / name)
        written += there or _rungs_collected(runs / name, store.reproduction / name)
    for name in TRAINED:
        for folder in sorted(filter(Path.is_dir, runs.glob(f"{name}-[0-9]*"))):
            written += _runs_collected(folder, store.reproduction / folder.name)
    if (runs / TIMINGS).exists():
        written.append(root / "benchmarks" / "results" / TIMINGS)
        shutil.copyfile(runs / TIMINGS, written[-1])
    if not written:
        raise SpecError(
            f"{runs} holds no study of specs/paper with a finished run",
            remedy=f"give the folder that holds folders such as {RANKED[0]} or {TRAINED[1]}-0",
        )
    return written


def _copied(source: Path, target: Path) -> list[Path]:
    if not (source / "results.json").exists():
        return []
    target.mkdir(parents=True, exist_ok=True)
    names = [name for name in ("results.json", "report.html") if (source / name).exists()]
    for name in names:  # what was written where is nobody's business: commands name runs/
        text = (source / name).read_text("utf-8").replace(f"{source.parent.resolve()}/", "runs/")
        write_atomically(target / name, text)
    return [target / name for name in names]


def _rungs_collected(folder: Path, target: Path) -> list[Path]:
    """The cheapest rungs of a ranking, as far as all structures have been trained there, in the form of its results.json."""
    from einsearch_cli.cli.output import environment
    from einsearch_cli.reports import write_report, write_results
    from einsearch_cli.search.store import StudyStore

    if not (folder / "study.db").exists():
        return []
    with tempfile.TemporaryDirectory() as copy:  # the study may be running
        shutil.copyfile(folder / "study.db", Path(copy) / "study.db")
        with StudyStore(Path(copy), None) as store:
            task = store.noted("settings")["task"]
            runs = [run for run in store.results() if run.trial.stage in ("main", "pilot")]
    seeded = {run.trial.rung for run in runs if run.trial.stage == "main"}
    # A rung whose further seeds have not begun has its first seed at every width.
    main = [run for run in runs if run.trial.stage == "main" or run.trial.rung not in seeded]
    counts: dict[int, Counter[LayerSpec]] = defaultdict(Counter)
    for run in main:
        counts[run.trial.rung][run.trial.structure] += 1
    structures = {run.trial.structure for run in main}
    whole = [
        rung
        for rung, count in counts.items()
        if min(count[item] for item in structures) >= NEARLY_ALL * max(count.values())
    ]
    kept = tuple(run for run in main if run.trial.rung in whole)
    if not kept:
        return []
    report = StudyReport.of_runs(
        [parse_layer("dense")],
        title=f"{folder.name}, rungs {', '.join(str(rung + 1) for rung in sorted(whole))}",
        task=task,
        budget_flops=max(run.trial.budget_flops for run in kept),
        results=kept,
        confirmation=(),
        spending=None,
        step_seconds={},
        commands=(f"einsearch rank specs/paper/{folder.name}.yaml --out runs/{folder.name}",),
        environment=environment(),
    )
    target.mkdir(parents=True, exist_ok=True)
    write_results(target / "results.json", report)
    write_report(target / "report.html", report)
    return [target / "results.json", target / "report.html"]


def _runs_collected(folder: Path, target: Path) -> list[Path]:
    """The runs of a training spec that have finished, with those that are there from earlier folders."""
    new, earlier = read_training(folder) or _unfinished(folder), read_training(target)
    if new is None:
        return []
    names = {run.result.name for run in new.runs}
    kept = () if earlier is None else (run for run in earlier.runs if run.result.name not in names)
    name, _, seed = folder.name.rpartition("-")
    report = replace(
        new,
        runs=(*new.runs, *kept),
        commands=(f"einsearch train specs/paper/{name}.yaml --set seed={seed} --out runs/{folder.name}",),
    )
    target.mkdir(parents=True, exist_ok=True)
    write_training_results(target / "results.json", report)
    write_atomically(target / "report.html", render_training(report) + "\n")
    return [target / "results.json", target / "report.html"]


def _unfinished(folder: Path) -> TrainingReport | None:
    """The runs of a training spec that have finished, before all have."""
    from einsearch_cli.training.full.result import read_result

    finished = []
    for run in sorted(folder.iterdir()):
        result = read_result(run) if run.is_dir() else None
        if result is not None:
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines() if line]
            finished.append(FinishedRun(result, curve_of(lines)))
    if not finished:
        return None
    return TrainingReport(
        title=f"{folder.name.rpartition('-')[0]}, unfinished",
        runs=tuple(finished),
        data=f"tokens with SHA-256 {finished[0].result.data_digest[:12]}…",
        commands=(),
        environment=(),
    )
