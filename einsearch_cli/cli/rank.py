"""`einsearch rank`: train candidates at equal compute and rank them against dense."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import (
    CORE_LIMIT,
    LEAST_WORKER_BYTES,
    MANY,
    POSITIVE,
    WORKER_BYTES,
    duration_option,
    flag,
    memory_option,
    out_folder,
    path_parser,
    real_option,
    refuse_too_many,
    whole_option,
)
from einsearch_cli.cli.output import Format, environment, format_option
from einsearch_cli.cli.rank_plan import counted, plan_text
from einsearch_cli.cli.report import BY, By, ranking_text, tell
from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.errors import Exit, SpecError
from einsearch_cli.search.engines import DEFAULT, engine_names, find_engine

if TYPE_CHECKING:
    from einsearch_cli.reports import StudyReport
    from einsearch_cli.search.engines import Engine
    from einsearch_cli.search.estimate import StudyEstimate
    from einsearch_cli.search.outcome import StudyOutcome
    from einsearch_cli.search.spec import StudySpec
    from einsearch_cli.search.stages import StudyEvent
    from einsearch_cli.search.store import StudyStore
    from einsearch_cli.search.timing import Place
    from einsearch_cli.search.watching import StudyWatch
    from einsearch_cli.structures import LayerSpec
    from einsearch_cli.tasks import AnyTask
    from einsearch_cli.training.proxy.width_trends import LayerCoordinates

DEFAULT_PACK: Final = 8
"""Runs of a pack, at most: in a pack of eight a narrow run takes half the time that it takes alone, and more gain little."""
MOST_PACKED: Final = 256
"""The most that may be asked for, and what is tried on a GPU."""

HELP = """Train candidates at equal training FLOPs and rank them against dense.

STUDY is a study in YAML (see specs/), a file that `einsearch enumerate`
wrote, structures, or grid:Q for the pruned two-factor space (ψ = 1, ω = 0).
Dense is always trained too, as the yardstick, and so are controls: candidates
without their experts or bonds. Every candidate gets a learning rate of its own
and is trained from all seeds around its best width; the better half goes on to
the next rung. With --most-seeds, candidates that are not told from dense get more
seeds there. At the end the best is confirmed with new seeds. Stop it at any
time and run the same command again: finished runs are kept. More --seeds,
candidates or rungs above, asked for later in the same --out, train what is missing.

[bold]Examples[/bold]

  einsearch rank specs/demo.yaml

  einsearch rank monarch btt:r=2 low-rank --budget 1e10 --out runs/three

  einsearch rank monarch low-rank --widths 64,128 --rates fixed --confirm 0

  einsearch rank grid:2 --task text --text my_corpus/ --dry-run

  einsearch rank monarch btt:r=2 --images my_photos/ --budget 1e11

  einsearch rank specs/demo.yaml --engine ray --engine-option address=auto
"""


def rank_command(
    study: list[str] = typer.Argument(metavar="STUDY.yaml|SPACE...", help="A study, files, structures, or grid:Q."),
    task: str | None = typer.Option(None, help="Proxy task; `einsearch tasks` lists them."),
    text: Path | None = typer.Option(
        None,
        parser=path_parser("--text"),
        metavar="PATH",
        help="File or folder of text to train on; implies --task text.",
    ),
    images: Path | None = typer.Option(
        None,
        parser=path_parser("--images"),
        metavar="PATH",
        help="Image, .npy array or folder of images to train on; implies --task pixels.",
    ),
    widths: str | None = typer.Option(
        None, help="Widths of the network, such as 64,128,256; each candidate's best ones if not given."
    ),
    budget: float | None = real_option(
        "--budget", rule=POSITIVE, example="1e11", help="Training FLOPs of every run of the last rung, such as 1e11."
    ),
    total: float | None = real_option(
        "--total-flops",
        rule=POSITIVE,
        example="1e13",
        help="Training FLOPs of all runs together, in place of --budget.",
    ),
    time: str | None = typer.Option(
        None, metavar="2h|90m|3600s", help="How long the study may take here, in place of --budget."
    ),
    seeds: int | None = whole_option("--seeds", example=3, within=(1, 1000), help="Runs per candidate and width."),
    first_seed: int | None = whole_option(
        "--first-seed",
        example=3,
        within=(0, 999),
        help="The first of these seeds, 0 if not given; the same study from other seeds repeats it.",
    ),
    most_seeds: int | None = whole_option(
        "--most-seeds",
        example=12,
        within=(1, 1000),
        help="Most seeds for a candidate that cannot be told from dense; the number of --seeds if not given.",
    ),
    rates: str | None = typer.Option(
        None, metavar="tuned|fixed", help="Learning rates: tuned for every candidate (default), or one for all."
    ),
    controls: bool | None = typer.Option(
        None,
        "--controls/--no-controls",
        help="Also train candidates without their experts and bonds (default).",
        show_default=False,
    ),
    coordinates: bool | None = flag(
        "--coordinates", "Also check how the outputs of layers change with the width.", default=None
    ),
    confirm: int | None = whole_option(
        "--confirm",
        example=1,
        within=(0, 100),
        help="How many of the best are confirmed with new seeds; 1 if not given.",
    ),
    out: Path | None = out_folder(help="Folder of the study; runs/NAME if not given."),
    workers: int | None = whole_option(
        "--workers",
        example=2,
        within=(1, MANY),
        limit=f"{CORE_LIMIT} with --engine local,",
        help="Runs at once; with --engine local, processes, one per core or CUDA device if not given.",
    ),
    engine: str = typer.Option(
        DEFAULT,
        metavar="NAME",
        autocompletion=engine_names,
        help=f"What trains the runs: {', '.join(engine_names())}, or one that a plug-in registers.",
    ),
    engine_options: list[str] = typer.Option(
        [],
        "--engine-option",
        metavar="KEY=VALUE",
        help="Setting of the engine, such as address=auto; repeatable (docs/scale-out.md).",
    ),
    device: str = typer.Option(
        "auto",
        metavar="NAMES",
        help="What runs train on: cpu; cuda, for all CUDA devices; some of them, such as cuda:0,cuda:1; or auto: cuda where "
        "there is one and else cpu, and cpu on clusters.",
    ),
    precision: str | None = typer.Option(
        None, metavar="float32|bfloat16", help="Numbers of matrix products; float32 if not given."
    ),
    pack: int | None = whole_option(
        "--pack",
        example=DEFAULT_PACK,
        within=(1, MOST_PACKED),
        help=f"Runs of one structure and width that a worker trains at once, where that is faster; {DEFAULT_PACK} on a "
        "CPU if not given, on a GPU as its memory allows; 1 trains each alone.",
    ),
    run_timeout: float | None = duration_option(
        "--run-timeout", example="30m", help="A run that takes longer is killed and has failed; no limit if not given."
    ),
    worker_memory: int | None = memory_option(
        "--worker-memory",
        least=LEAST_WORKER_BYTES,
        help="A run whose worker needs more has failed; no limit if not given.",
    ),
    checkpoint_every: float = duration_option(
        "--checkpoint-every", default="5m", example="5m", help="Time between two saves of a run in progress."
    ),
    dry_run: bool = flag("--dry-run", "Show the plan with its cost, and stop."),
    by: By = BY,
    output: Format = format_option(help="Of the ranking on stdout: table, json, jsonl, csv, yaml or markdown."),
) -> int:
    kind = find_engine(engine)
    if workers is not None and kind.is_local:
        refuse_too_many("--workers", workers, bytes_each=WORKER_BYTES)
    budgets = [name for name, value in (("--budget", budget), ("--total-flops", total), ("--time", time)) if value]
    if len(budgets) > 1:
        raise SpecError(f"{budgets[0]} and {budgets[1]} say the same in two ways", remedy="give one of them")
    given = {
        "budget_flops": budget,
        "total_flops": total,
        "time": time,
        "seeds": seeds,
        "first_seed": first_seed,
        "most_seeds": most_seeds,
        "rates": rates,
        "precision": precision,
        "controls": controls,
        "coordinates": coordinates,
        "confirm": confirm,
    }
    spec, folder = read_study(study, overrides_of(task, text, widths, given, images))

    from einsearch_cli.search.budgets import check_budgets
    from einsearch_cli.search.engine_options import split_words
    from einsearch_cli.search.job import TrialSetup
    from einsearch_cli.search.spending import with_run_budget

    devices = _devices(device, kind)
    words, place = split_words(engine_options), out or Path("runs") / spec.name
    setup = TrialSetup(
        spec.task,
        spec.task_settings,
        spec.optimizer.model_dump(),
        precision=spec.precision,
        devices=devices,
        pack=pack or (DEFAULT_PACK if devices == ("cpu",) else MOST_PACKED),
        run_timeout_s=run_timeout,
        worker_memory=worker_memory,
        folder=str(place.resolve()) if kind.saves_runs else None,
        checkpoint_s=checkpoint_every,
    )
    team = kind(setup, workers, words, place)
    candidates = spec.candidates(folder)
    opened = spec.open_task()
    spec = with_run_budget(spec, candidates, opened)
    check_budgets(spec, candidates, opened)
    session = _Session(spec, candidates, opened, place, team)
    if dry_run:
        plan = session.plan(*session.estimated(), output)
        console.data(console.wrapped(plan, console.width()) if output is Format.table else plan)
        return Exit.OK
    return session.run(output, by)


def _devices(words: str, kind: type[Engine]) -> tuple[str, ...]:
    """Where workers train. Clusters give GPUs to those who ask, so `auto` is the CPU there."""
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
class _Session:
    """One call of `rank`: runs what is left of a study and reports."""

    spec: StudySpec
    candidates: list[LayerSpec]
    task: AnyTask
    folder: Path
    engine: Engine

    def estimated(self, store: StudyStore | None = None) -> tuple[StudySpec, StudyEstimate]:
        """The study with its budget, and what the study will take; torch is loaded and the data are prepared only now."""
        from einsearch_cli.cli.progress import waiting
        from einsearch_cli.layers.memory import retain_memory
        from einsearch_cli.search.spending import estimate_budgeted

        retain_memory()  # as in the workers, so that the estimate is theirs
        with waiting(f"preparing the {self.spec.task} task, and timing a few steps"):
            return estimate_budgeted(self.spec, self.candidates, self.task, self.engine, store)

    def plan(self, spec: StudySpec, estimate: StudyEstimate, output: Format) -> str:
        """The plan with its cost as text."""
        return plan_text(spec, self.candidates, estimate, self.engine.workers, output)

    def run(self, output: Format, by: By) -> int:
        """The study as a whole: its folder is looked at first, then the data are prepared."""
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
        """What writes how far the study is."""
        from einsearch_cli.search.watching import StudyWatch

        return StudyWatch(
            self.folder, self.spec.name, self.spec.task, self.engine.name, self.engine.workers, store.results()
        )

    def _step_seconds(self, outcome: StudyOutcome, store: StudyStore) -> dict[Place, float]:
        """The price in seconds of what was ranked; the workers have ended, so that nothing disturbs the race."""
        from einsearch_cli.cli.progress import waiting
        from einsearch_cli.search.timing import known_seconds, race_steps, timed_places

        places = timed_places(outcome.ranked)
        device = self.engine.device_here()
        known = known_seconds(store, places, device)
        if known is not None:
            return known
        with waiting(f"timing a step of {counted(len(places), 'network')} in turn"):
            return race_steps(store, places, self.task, self.spec, device)

    def _coordinates(self, outcome: StudyOutcome, store: StudyStore) -> tuple[LayerCoordinates, ...]:
        """The coordinate check, where it was asked for."""
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

        return StudyReport.of_runs(
            self.spec.compared_with(),
            title=self.spec.name,
            task=self.spec.task,
            budget_flops=self.spec.budget_flops,
            results=outcome.ranked,
            unbalanced=outcome.unbalanced,
            confirmation=outcome.confirmation,
            tuning=outcome.tuning,
            rates=outcome.rates,
            controls=outcome.controls,
            spending=outcome.spending,
            step_seconds=step_seconds,
            coordinates=coordinates,
            loss_name=f"validation loss ({self.task.loss_unit})",
            commands=(shlex.join(["einsearch", *sys.argv[1:]]),),
            environment=environment(),
        )
