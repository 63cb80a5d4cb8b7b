"""`einsearch status`: the progress of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import path_parser
from einsearch_cli.cli.output import Format, format_option

if TYPE_CHECKING:
    from einsearch_cli.search.status import RunStatus, StudyStatus

HELP = """Say how far a study is: runs, stage, rate, time left, cost.

RUN is the folder of a study, the --out of `einsearch rank`. It is read only, whether the study runs or not.

Examples:

  einsearch status runs/demo

  einsearch status runs/demo --format json
"""

_FEW_CORE_HOURS = 0.1
_SILENT_S = 60
"""Seconds without a sign of life from another machine after which the status says so."""
STUDY_FOLDER = typer.Argument(parser=path_parser("RUN"), metavar="RUN", help="Folder of a study.")


def status_command(
    run: Path = STUDY_FOLDER,
    output: Format = format_option((Format.table, Format.json)),
) -> None:
    from einsearch_cli.search.status import read_status

    status = read_status(run)
    if output is Format.json:
        console.data(json.dumps(status.to_json(), indent=2, ensure_ascii=False))
    else:
        console.data(console.wrapped("\n".join(status_lines(status)), console.width()))


def status_lines(status: StudyStatus) -> list[str]:
    """The status in lines for people, the most important first."""
    return [*_headline(status), *_stage(status), *_pace(status), *_cost(status), *_running(status)]


def _headline(status: StudyStatus) -> list[str]:
    runs = status.runs
    expected = f" of about {runs.expected:,}" if runs.expected is not None and not status.has_ended else ""
    line = f"{status.study}: {_STATES[status.state]}; {runs.ended:,}{expected} runs have ended"
    others = [(runs.diverged, "diverged"), (runs.failed, "failed"), (runs.tried_again, "tried again")]
    more = ", ".join(f"{number:,} {what}" for number, what in others if number)
    lines = [line + (f" ({more})" if more else "")]
    if status.state == "failed":
        lines.append(f"error: {status.error}")
    if status.state == "killed":
        lines.append(f"{status.process} is gone without a word")
    if status.state in ("stopped", "failed", "killed"):
        lines.append("run the same command again to go on: finished runs are kept")
    if status.alive is None and not status.has_ended and status.silent_s > _SILENT_S:
        lines.append(f"{status.process} gave its last sign of life {_time(status.silent_s)} ago")
    return lines


def _stage(status: StudyStatus) -> list[str]:
    stage = status.stage
    if stage is None or status.has_ended:
        return []
    return [
        f"rung {stage.rung + 1}/{stage.rungs}, {stage.name}: {stage.finished:,} of {stage.runs:,} runs, "
        f"{stage.budget_flops:.2g} FLOPs each"
    ]


def _pace(status: StudyStatus) -> list[str]:
    if status.has_ended:
        return []
    rate = [] if status.runs_per_hour is None else [f"{_number(status.runs_per_hour)} runs an hour"]
    left = [] if status.eta_s is None else [f"about {_time(status.eta_s)} left"]
    return [", ".join([*rate, *left])] if rate or left else []


def _cost(status: StudyStatus) -> list[str]:
    cost = status.cost
    is_short = cost.core_hours < _FEW_CORE_HOURS
    time = f"{_number(cost.core_hours * 3600)} core-seconds" if is_short else f"{_number(cost.core_hours)} core-hours"
    return [f"so far {cost.train_flops:.3g} training FLOPs, {time}"]


def _running(status: StudyStatus) -> list[str]:
    if status.has_ended:
        return []
    workers = f"{status.workers} worker{'s' * (status.workers != 1)}, engine {status.engine}"
    line = f"{workers}: {status.runs.running:,} running, {status.runs.queued:,} queued"
    return [line, *(f"  {_run(run)}" for run in status.running)]


def _run(run: RunStatus) -> str:
    from einsearch_cli.structures import parse_layer, short_name

    rate = "" if run.rate == 1 else f", rate x {run.rate:g}"
    name = f"{short_name(parse_layer(run.structure))}, width {run.width}, seed {run.seed}{rate}"
    if run.steps is None:
        return f"{name}: starting"
    loss = "" if run.loss is None else f", loss {run.loss:.4g}"
    return f"{name}: step {run.step:,} of {run.steps:,}{loss}"


def _number(value: float) -> str:
    """A number with three digits, and all digits before the point.

    >>> _number(11_345.6), _number(15.123), _number(0.25)
    ('11,346', '15.1', '0.25')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


_STATES = {
    "preparing": "preparing its data and its plan",
    "running": "running",
    "timing": "timing steps",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "killed": "killed",
}


def _time(seconds: float) -> str:
    from einsearch_cli.reports.numbers import duration_text

    return duration_text(seconds)
