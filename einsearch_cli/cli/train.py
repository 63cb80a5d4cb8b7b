"""`einsearch train`: full runs of transformers, with checkpoints, and their comparison."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import complete, complete_card, offer
from einsearch_cli.cli.options import flag, out_folder, path_parser, read_set_words, whole_option
from einsearch_cli.cli.output import environment
from einsearch_cli.cli.report import TRAINED_LEAST
from einsearch_cli.errors import Exit, OutputError, RunFailedError
from einsearch_cli.shipped import Kind, names_of, refuse_missing_data, refuse_near_spec, shipped_path

if TYPE_CHECKING:
    from einsearch_cli.data.tokens import DataSettings, TokenData
    from einsearch_cli.reports.training import TrainingReport
    from einsearch_cli.training.full import RunResult, TrainPlan, TrainSpec, World

HELP = """Train a transformer, or several one after another, as a YAML file says.

Everything goes into one folder: checkpoints,
metrics (JSON lines), and at the end results.json and report.html with the loss
curves. Stop it at any time, with Ctrl-C or by force, and run the same command
again: it goes on from the last checkpoint, and finished runs are kept. With
torchrun several processes share the work.

Examples:

  einsearch train train-structured --dry-run

  einsearch train mine.yaml --set optimizer.learning_rate=1e-3 --out runs/mine

  einsearch train mine.yaml --dry-run --gpu h100 --gpus 8

  torchrun --nproc-per-node 2 -m einsearch_cli train mine.yaml --set parallel=fsdp
"""


SPEC = typer.Argument(
    metavar="SPEC",
    autocompletion=complete(Kind.training, structures=False),
    parser=path_parser("SPEC"),
    help=f"YAML file, or one that comes with einsearch: {', '.join(names_of(Kind.training))}.",
)


def train_command(
    file: Path = SPEC,
    settings: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="Change a setting of every run, such as data.text=book.txt; repeatable."
    ),
    out: Path | None = out_folder(help="Folder of the runs.", shown="runs/NAME"),
    device: str = typer.Option(
        "auto",
        metavar="NAME",
        autocompletion=offer("auto", "cpu", "cuda"),
        help="cpu, cuda, cuda:N, or auto: CUDA where there is one.",
    ),
    gpu: str | None = typer.Option(
        None,
        metavar="CARD",
        autocompletion=complete_card,
        help="Estimate memory and time on this card too, such as a100 or h100.",
    ),
    gpus: int = whole_option("--gpus", default=1, within=(1, 1_000_000), help="Cards that the estimate is for."),
    dry_run: bool = flag("--dry-run", "Show the plan, with the speed measured here, and stop."),
) -> int:
    from einsearch_cli.data.tokens import check_source
    from einsearch_cli.machine import retain_memory
    from einsearch_cli.models.transformer import accelerator
    from einsearch_cli.training.full import load_train_specs, refuse_folder_of_other

    changes = read_set_words(settings)
    file = Path(shipped_path(str(file), Kind.training))
    if not file.exists():
        refuse_near_spec(str(file), Kind.training)
    if not any(key.startswith("data") for key in changes.values):
        refuse_missing_data(file, "--set data.text=PATH")
    name, specs = load_train_specs(file, changes.values, changes.texts)
    folder = out or Path("runs") / name
    if (folder / "study.db").exists():  # its results.json would be replaced
        raise OutputError(f"the folder {folder} holds a study of einsearch rank", remedy="give another --out")
    if not dry_run:
        for spec in specs:
            refuse_folder_of_other(_folder_of(spec, folder, _are_several(specs)), spec)
    for data in dict.fromkeys(spec.data for spec in specs):
        check_source(data)
    if gpu is not None:
        accelerator(gpu)
    retain_memory()

    from einsearch_cli.training.full import open_world  # loads torch

    with open_world(device) as world:
        session = _Session(name, specs, folder, world)
        session.add_controls(refuse_others=not dry_run)
        plan = "\n".join(session.plan_lines(gpu, gpus, probe=dry_run))  # all processes take part in probing
        if world.is_first:
            if dry_run:
                console.data(console.wrapped(plan, console.width()))
            else:
                console.talk(plan)
        return Exit.OK if dry_run else session.run()


def _are_several(specs: Sequence[TrainSpec]) -> bool:
    """Whether there are several runs, controls included."""
    return len(specs) > 1 or any(spec.controls and spec.guidance is not None for spec in specs)


def _folder_of(spec: TrainSpec, folder: Path, are_several: bool) -> Path:
    """The folder of a run; if there are several runs, each has its own inside `folder`."""
    return folder / spec.name if are_several else folder


@dataclass
class _Session:
    """One call of `train`: runs what is left of a spec and reports."""

    name: str
    specs: list[TrainSpec]
    folder: Path
    world: World
    _data: dict[DataSettings, TokenData] = field(default_factory=dict)

    def folder_of(self, spec: TrainSpec) -> Path:
        """The folder of one of the runs."""
        return _folder_of(spec, self.folder, _are_several(self.specs))

    def data_of(self, spec: TrainSpec) -> TokenData:
        """The data of a run, opened once for all runs on it."""
        from einsearch_cli.cli.progress import share_progress
        from einsearch_cli.data.tokens import open_tokens

        if spec.data not in self._data:
            with share_progress("encoding", self.world.is_first) as on_progress:
                self._data[spec.data] = open_tokens(spec.data, progress=on_progress)
        return self._data[spec.data]

    def add_controls(self, *, refuse_others: bool) -> None:
        """Add the runs of `controls: true`, whose lengths depend on the vocabulary."""
        from einsearch_cli.training.full import refuse_folder_of_other, with_controls

        given = self.specs
        self.specs = with_controls(given, lambda spec: self.data_of(spec).vocabulary)
        for spec in self.specs if refuse_others else ():
            if spec not in given:
                refuse_folder_of_other(self.folder_of(spec), spec)

    def plan_lines(self, gpu: str | None, gpus: int, *, probe: bool) -> list[str]:
        """The plan of all runs as text."""
        from einsearch_cli.cli.output import table
        from einsearch_cli.models.transformer import accelerator
        from einsearch_cli.reports.training import plan_rows
        from einsearch_cli.reports.transformer_costs import estimate_lines
        from einsearch_cli.training.full import plan_run, probe_seconds

        card = None if gpu is None else accelerator(gpu)
        plans = [plan_run(spec, self.data_of(spec).vocabulary) for spec in self.specs]
        seconds = None
        if probe:
            if self.world.is_first:
                console.talk(
                    f"measuring the speed of {len(plans)} run{'s' * (len(plans) != 1)} on {self.world.device} …"
                )
            seconds = [probe_seconds(plan, self.data_of(plan.spec), self.world) for plan in plans]
        lines = [f"data: {text}" for text in dict.fromkeys(map(self._described, self.specs))]
        lines += [f"device: {self.world.device}" + (f" × {self.world.size}" if self.world.size > 1 else "")]
        lines += [table(plan_rows(plans, seconds)), *(_guide_line(plan) for plan in plans if plan.phases.guided_steps)]
        if card is not None:
            for plan in plans:
                lines += [f"{plan.spec.name}:", *estimate_lines(plan.estimate_on(card, gpus), card, gpus)]
        return lines

    def _described(self, spec: TrainSpec) -> str:
        data = self.data_of(spec)
        return f"{data.described}, vocabulary {data.vocabulary:,}"

    def run(self) -> int:
        """Train all runs that are not finished, then report."""
        from einsearch_cli.cli.progress import TrainProgress
        from einsearch_cli.training.full import train_full

        terminal = console.talk_console(quiet=not self.world.is_first)
        results: list[RunResult] = []
        failed: list[RunFailedError] = []
        try:
            for spec in self.specs:
                with TrainProgress(terminal, spec.name) as progress:
                    try:
                        results.append(train_full(spec, self.data_of(spec), self.folder_of(spec), self.world, progress))
                    except RunFailedError as error:
                        failed.append(error)
                        if len(self.specs) > 1:
                            progress.say(f"error: {error.problem}")
        except KeyboardInterrupt:
            if self.world.is_first:
                console.talk(f"stopped: the same command goes on from the last checkpoint in {self.folder}")
            return Exit.INTERRUPTED
        if results and self.world.is_first:
            self._report(results)
        if not failed:
            return Exit.OK
        if self.world.is_first:
            share = f"{len(failed)} of {len(self.specs)} runs failed: " if len(self.specs) > 1 else ""
            console.error(share + failed[0].problem, failed[0].remedy)
        return failed[0].exit_code

    def _report(self, results: Sequence[RunResult]) -> None:
        from einsearch_cli.cli.output import table
        from einsearch_cli.files import write_atomically
        from einsearch_cli.reports.training import result_rows, training_findings, write_training_results
        from einsearch_cli.reports.training_page import render_training

        report = self._training_report(results)
        write_training_results(self.folder / "results.json", report)
        write_atomically(self.folder / "report.html", render_training(report) + "\n")
        console.data(table(result_rows(report), least=TRAINED_LEAST))
        console.talk("\n".join(["", *training_findings(report), ""]))
        console.talk(f"results: {self.folder / 'results.json'}\nreport:  {self.folder / 'report.html'}")

    def _training_report(self, results: Sequence[RunResult]) -> TrainingReport:
        from einsearch_cli.reports.training import FinishedRun, TrainingReport, curve_of
        from einsearch_cli.training.full import read_metrics

        by_name = {spec.name: self.folder_of(spec) for spec in self.specs}
        runs = tuple(FinishedRun(result, curve_of(read_metrics(by_name[result.name]))) for result in results)
        return TrainingReport(
            title=self.name,
            runs=runs,
            data="; ".join(dict.fromkeys(map(self._described, self.specs))),
            commands=(shlex.join(["einsearch", *sys.argv[1:]]),),
            environment=environment(),
        )


def _guide_line(plan: TrainPlan) -> str:
    """The guided part of a run in words."""
    phases = plan.phases
    line = (
        f"{plan.spec.name}: guides of {phases.guide_params:,} parameters for the first {phases.guided_steps:,} of "
        f"{phases.steps:,} steps ({phases.guided_steps / phases.steps:.0%})"
    )
    if not phases.repeated_steps:
        return line
    share = plan.total_flops / plan.dense_total_flops
    return f"{line}, whose tokens come again in the last {phases.repeated_steps:,}: {share:.2%} of the FLOPs of dense"
