"""One call of `einsearch rank` or `einsearch search`, which plans, runs and reports a study."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from einsearch_cli.cli import console
from einsearch_cli.cli.options import WORKER_BYTES, refuse_too_many
from einsearch_cli.cli.output import Format, counted, environment
from einsearch_cli.cli.rank_plan import plan_text
from einsearch_cli.cli.report import By, ranking_text, tell
from einsearch_cli.cli.study_options import DEFAULT_PACK, MOST_PACKED
from einsearch_cli.errors import Exit, SpecError, StudyError
from einsearch_cli.search.engines import find_engine

if TYPE_CHECKING:
    from einsearch_cli.reports import StudyReport
    from einsearch_cli.search.engines import Engine
    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.outcome import StudyOutcome
    from einsearch_cli.search.spec import StudySpec
    from einsearch_cli.search.stages import StudyEvent
    from einsearch_cli.search.store import StoredStudy, StudyStore
    from einsearch_cli.search.timing import Place
    from einsearch_cli.search.watching import StudyWatch
    from einsearch_cli.structures import LayerSpec
    from einsearch_cli.tasks import AnyTask
    from einsearch_cli.training.proxy.width_trends import LayerCoordinates


_LOAD_LIMIT = 0.5
"""Processes beyond the number of cores from which other work is warned of."""


@dataclass(frozen=True, kw_only=True)
class Trainers:
    """The engine and workers that train the runs, from the options."""

    engine: str
    engine_options: Sequence[str]
    workers: int | None
    device: str
    pack: int | None
    run_timeout: float | None
    worker_memory: int | None
    checkpoint_every: float

    def check(self) -> None:
        """Refuse an unknown engine, and more processes than this machine can run."""
        if self.workers is not None and find_engine(self.engine).is_local:
            refuse_too_many("--workers", self.workers, bytes_each=WORKER_BYTES)

    def team(self, spec: StudySpec, place: Path) -> Engine:
        """The engine of a study whose folder is `place`."""
        from einsearch_cli.search.engine_options import split_words
        from einsearch_cli.search.job import TrialSetup

        kind = find_engine(self.engine)
        devices = _devices(self.device, kind)
        setup = TrialSetup(
            spec.task,
            spec.task_settings,
            spec.optimizer.model_dump(),
            precision=spec.precision,
            devices=devices,
            pack=self.pack or (DEFAULT_PACK if devices == ("cpu",) else MOST_PACKED),
            run_timeout_s=self.run_timeout,
            worker_memory=self.worker_memory,
            folder=str(place.resolve()) if kind.saves_runs else None,
            checkpoint_s=self.checkpoint_every,
        )
        return kind(setup, self.workers, split_words(self.engine_options), place)


def start_study(
    spec: StudySpec, folder: Path, trainers: Trainers, out: Path | None, *, dry_run: bool, by: By, output: Format
) -> int:
    """Plan a study and, unless only its plan is wanted, run it and report.

    Args:
        spec: the study.
        folder: that its files are relative to.
        trainers: what trains the runs.
        out: folder of the study; runs/NAME if None.
        dry_run: show the plan and stop.
        by: order of the table.
        output: format of what is printed.
    """
    from einsearch_cli.search.budgets import check_budgets
    from einsearch_cli.search.spending import with_run_budget

    place = out or Path("runs") / spec.name
    team = trainers.team(spec, place)
    candidates = spec.candidates(folder)
    opened = spec.open_task()
    if spec.explore is not None:
        from einsearch_cli.search.proposing import check_space

        check_space(spec.explore)
    spec = with_run_budget(spec, candidates, opened)
    check_budgets(spec, candidates, opened)
    session = StudySession(spec, candidates, opened, place, team)
    if dry_run:
        plan = session.plan(*session.estimated(session.stored()), output)
        console.data(console.wrapped(plan, console.width()) if output is Format.table else plan)
        return Exit.OK
    return session.run(output, by)


def _devices(words: str, kind: type[Engine]) -> tuple[str, ...]:
    """The devices of workers; on clusters, which give GPUs only on request, `auto` is the CPU."""
    if words == "auto" and not (kind.is_local and _may_have_gpus()):
        return ("cpu",)
    if kind.is_local and words != "cpu":
        from einsearch_cli.training.devices import choose_devices

        return choose_devices(words)
    if not kind.is_local and words not in (everywhere := ("auto", "cpu", "cuda")):
        raise SpecError(
            f"--device {words} with --engine {kind.name}: one of {', '.join(everywhere)} is needed",
            remedy="--device cuda: every worker takes the GPUs that it is given",
        )
    return (words,)


def _may_have_gpus() -> bool:
    """Whether this machine may have a GPU, by its files: loading torch to ask it takes a second."""
    return sys.platform != "linux" or any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "dxg", "kfd"))


@dataclass(frozen=True)
class StudySession:
    """One call of `rank`: runs what is left of a study and reports."""

    spec: StudySpec
    candidates: list[LayerSpec]
    task: AnyTask
    folder: Path
    engine: Engine

    def stored(self) -> StoredStudy | None:
        """The study that the folder already holds, for the plan of its continuation; says so, or what is in the way."""
        if not (self.folder / "study.db").exists():  # its module takes a second to load
            return None
        from einsearch_cli.search.identity import fingerprint
        from einsearch_cli.search.store import StoredStudy

        try:
            found = StoredStudy.read(self.folder, fingerprint(self.spec, self.task))
        except StudyError as error:
            console.talk(f"warning: {error.problem}: without --dry-run this command would stop; {error.remedy}")
            return None
        if found is not None:
            console.talk(
                f"{self.folder} holds this study with {counted(found.ended, 'run')}, which are not trained again; "
                "the plan counts all"
            )
        return found

    def estimated(self, store: StudyStore | StoredStudy | None = None) -> tuple[StudySpec, StudyEstimate]:
        """The study with its budget and its estimate; only now torch is loaded and the data are prepared.

        Warns where no verdict is possible, where networks will be narrow, where the data are weak, and where other work
        makes the estimate uncertain.
        """
        from einsearch_cli.cli.progress import waiting
        from einsearch_cli.machine import retain_memory
        from einsearch_cli.search.spending import estimate_budgeted

        retain_memory()  # as in the workers, so that the estimate is theirs
        with waiting(f"preparing the {self.spec.task} task, and timing a few steps"):
            found = estimate_budgeted(self.spec, self.candidates, self.task, self.engine, store)
        self._warn_of_few_widths(found[0])
        self._warn_of_narrow_networks(found[0])
        if (caution := self.task.caution()) is not None:
            console.talk(f"warning: {caution[0]}\n  try: {caution[1]}")
        self._warn_of_other_work()
        return found

    def _warn_of_few_widths(self, spec: StudySpec) -> None:
        from einsearch_cli.scaling.surface import too_few

        if spec.widths is not None and (problem := too_few(spec.widths)):
            console.talk(
                f"warning: {problem}: every verdict will be 'cannot tell'\n"
                "  try: --widths with three or more, or none, so that the best width of each candidate is searched"
            )

    def _warn_of_narrow_networks(self, spec: StudySpec) -> None:
        from einsearch_cli.search.budgets import narrow_networks

        narrow = narrow_networks(spec, self.candidates, self.task)
        if narrow is not None:
            width, enough = narrow
            budget = f"{enough:.0e}".replace("e+0", "e").replace("e+", "e")
            remedy = (
                f"--budget {budget} or more"
                if spec.total_flops is None and spec.time is None
                else "a larger budget or more time"
            )
            console.talk(
                f"warning: {spec.budget_flops:.3g} FLOPs a run: networks are about {width} wide on the first rung; "
                f"there structures hardly differ, and their order says little about wide layers\n"
                f"  try: {remedy}, or fewer rungs"
            )

    def _warn_of_other_work(self) -> None:
        """Steps are timed on one core, so nothing in the times shows that workers will share the others."""
        from einsearch_cli.machine import other_load

        cores, others = os.cpu_count() or 1, other_load()
        if not self.engine.is_local or self.engine.workers + others < cores + _LOAD_LIMIT:
            return
        remedy = "--budget, which is the same on a busy machine" if self.spec.time is not None else "fewer --workers"
        console.talk(
            f"warning: other work takes about {min(others, cores):.1f} of the {counted(cores, 'core')} of this machine: "
            f"the estimated times can be far too short\n  try: a free machine, or {remedy}"
        )

    def plan(self, spec: StudySpec, estimate: StudyEstimate, output: Format) -> str:
        """The plan with its cost as text."""
        return plan_text(spec, self.candidates, estimate, self.engine.workers, output)

    def run(self, output: Format, by: By) -> int:
        """Run the whole study: its folder is checked first, then the data are prepared."""
        from einsearch_cli.cli.progress import StudyProgress
        from einsearch_cli.search.identity import fingerprint, readable
        from einsearch_cli.search.store import StudyStore
        from einsearch_cli.search.study import run_study

        identity = fingerprint(self.spec, self.task)
        try:
            settings = readable(self.spec, self.task)
            with StudyStore(self.folder, identity, settings) as store, self._watched(store) as watch:
                spec, estimate = self.estimated(store)
                console.talk(self.plan(spec, estimate, Format.table))
                watch.plan(estimate)
                with (
                    self.engine as engine,
                    StudyProgress(console.talk_console(), estimate, engine.workers) as progress,
                ):

                    def on_event(event: StudyEvent) -> None:
                        progress(event)
                        watch(event)

                    outcome = run_study(spec, self.candidates, self.task, estimate.networks, store, engine, on_event)
                watch.timing()
                step_seconds = self._step_seconds(outcome, store)
                coordinates = self._coordinates(outcome, store)
                session = replace(self, spec=spec)
                return session._report(session._study_report(outcome, step_seconds, coordinates), output, by)
        except KeyboardInterrupt:
            console.talk(f"stopped; finished runs are kept in {self.folder}: run the same command again to go on")
            return Exit.INTERRUPTED

    def _watched(self, store: StudyStore) -> StudyWatch:
        """The watch that writes the status of the study."""
        from einsearch_cli.search.watching import StudyWatch

        return StudyWatch(
            self.folder, self.spec.name, self.spec.task, self.engine.name, self.engine.workers, store.results()
        )

    def _step_seconds(self, outcome: StudyOutcome, store: StudyStore) -> dict[Place, float]:
        """Seconds per step of the ranked networks, timed after the workers have ended and nothing disturbs the race."""
        from einsearch_cli.cli.progress import waiting
        from einsearch_cli.search.timing import are_timed, known_seconds, race_steps, timed_places

        places = timed_places(outcome.ranked)
        device = self.engine.device_here()
        known = known_seconds(store, places, device)
        if known is not None:
            return known
        if not are_timed(places, self.task, self.spec, device):
            console.talk("steps are not timed: some networks are too large for the CPU of this machine")
            return {}
        with waiting(f"timing a step of {counted(len(places), 'network')} in turn"):
            return race_steps(store, places, self.task, self.spec, device)

    def _coordinates(self, outcome: StudyOutcome, store: StudyStore) -> tuple[LayerCoordinates, ...]:
        """The coordinate check, if requested."""
        from einsearch_cli.cli.progress import waiting
        from einsearch_cli.search.coordinate_check import check_coordinates

        if not self.spec.coordinates:
            return ()
        with waiting("checking how outputs change with the width"):
            return check_coordinates(store, outcome.ranked, self.task, self.spec, self.engine.device_here())

    def _report(self, study: StudyReport, output: Format, by: By) -> int:
        from einsearch_cli.reports import write_report, write_results

        write_results(self.folder / "results.json", study)
        write_report(self.folder / "report.html", study)
        console.data(ranking_text(study, output, by))
        tell(study)
        console.talk(f"results: {self.folder / 'results.json'}\nreport:  {self.folder / 'report.html'}")
        failed = [result for result in study.all_runs if result.status != "ok"]
        if not failed:
            return Exit.OK
        from einsearch_cli.cli.progress import describe

        first = failed[0]
        console.error(
            f"{len(failed)} of {len(study.all_runs)} runs have no loss; the first, "
            f"{describe(first.trial)}, {first.status}: {first.error}"
        )
        return Exit.RUN_FAILED

    def _study_report(
        self, outcome: StudyOutcome, step_seconds: dict[Place, float], coordinates: tuple[LayerCoordinates, ...]
    ) -> StudyReport:
        from einsearch_cli.reports import StudyReport
        from einsearch_cli.search.setup import setup_words, whole_spec

        found = outcome.exploration
        rivals = [] if found is None or found.rival is None else [found.rival]
        return StudyReport.of_runs(
            list(dict.fromkeys([*self.spec.compared_with(), *rivals])),
            title=self.spec.name,
            task=self.spec.task,
            budget_flops=self.spec.budget_flops,
            results=outcome.ranked,
            unbalanced=outcome.unbalanced,
            confirmation=outcome.confirmation,
            tuning=outcome.tuning,
            explored=outcome.explored,
            exploration=found,
            rates=outcome.rates,
            controls=outcome.controls,
            spending=outcome.spending,
            step_seconds=step_seconds,
            coordinates=coordinates,
            loss_name=f"validation loss ({self.task.loss_unit})",
            setup=setup_words(self.spec, self.candidates, self.task),
            spec=whole_spec(self.spec, self.candidates, self.task),
            commands=(shlex.join(["einsearch", *sys.argv[1:]]),),
            environment=environment(),
        )
