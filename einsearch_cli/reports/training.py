"""Full training runs compared: tables, findings in sentences, and results.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.numbers import MISSING, duration_text, flops_text, loss_text, percent_text, share_text

if TYPE_CHECKING:  # the training package needs torch, a report does not
    from einsearch_cli.training.full import RunResult, TrainPlan


_EQUAL_FLOPS: Final = 0.005
"""The largest difference of log FLOPs between runs on equal FLOPs, as their steps are whole."""


@dataclass(frozen=True)
class CurvePoint:
    """Held-out loss at one step."""

    step: int
    total_flops: float
    """Training FLOPs so far, embeddings and head included."""
    loss: float


@dataclass(frozen=True)
class FinishedRun:
    """A run that is shown."""

    result: RunResult
    curve: tuple[CurvePoint, ...]

    @property
    def is_guided(self) -> bool:
        """Whether guides led its first steps."""
        return self.result.guided_steps > 0


@dataclass(frozen=True)
class TrainingReport:
    """All runs of one spec."""

    title: str
    runs: tuple[FinishedRun, ...]
    data: str
    """The source of the tokens, in words."""
    commands: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def dense(self) -> FinishedRun | None:
        """The first run without structure: what the others are compared with."""
        return next((run for run in self.runs if run.result.structure == "dense"), None)


def curve_of(lines: Sequence[dict[str, Any]]) -> tuple[CurvePoint, ...]:
    """The points of metrics.jsonl that have a held-out loss.

    >>> curve_of([{"step": 1, "total_flops": 5, "validation_loss": 2.5}, {"step": 2, "total_flops": 10}])
    (CurvePoint(step=1, total_flops=5.0, loss=2.5),)
    """
    return tuple(
        CurvePoint(line["step"], float(line["total_flops"]), line["validation_loss"])
        for line in lines
        if "validation_loss" in line
    )


def plan_rows(plans: Sequence[TrainPlan], seconds: Sequence[float | None] | None) -> list[dict[str, str]]:
    """Runs before they start; `seconds` is the time that each will take here, if it was probed."""
    rows = []
    for number, plan in enumerate(plans):
        phases = plan.phases
        row = {
            "run": plan.spec.name,
            "structure": plan.config.structure,
            "params": f"{phases.params:,}",
            "steps": f"{phases.steps:,}",
            "guided": f"{phases.guided_steps:,}" if phases.guided_steps else MISSING,
            "repeated": f"{phases.repeated_steps:,}" if phases.repeated_steps else MISSING,
            "tokens": f"{plan.tokens:,}",
            "FLOPs/token": f"{plan.total_flops / plan.tokens:.3g}",
            "FLOPs": flops_text(plan.total_flops),
            "of dense": share_text(plan.total_flops / plan.dense_total_flops),
        }
        if seconds is not None:
            row["time here"] = duration_text(seconds[number])
        rows.append(row)
    return rows


def result_rows(report: TrainingReport) -> list[dict[str, str]]:
    """Finished runs for people, in the order of the spec."""
    dense = report.dense
    rows = []
    for run in report.runs:
        result = run.result
        row = {
            "run": result.name,
            "structure": result.structure,
            "held-out loss": loss_text(result.loss),
            "params": f"{result.params:,}",
            "steps": f"{result.steps:,}",
            "guided": f"{result.guided_steps:,}" if run.is_guided else MISSING,
            "FLOPs": flops_text(result.total_flops),
            "time": duration_text(result.elapsed_s),
        }
        if dense is not None:
            row["vs dense"] = MISSING if run is dense else percent_text(result.loss / dense.result.loss - 1)
            row["FLOPs of dense"] = share_text(result.total_flops / dense.result.total_flops)
        rows.append(row)
    return rows


def training_findings(report: TrainingReport) -> list[str]:
    """The findings of the runs, in sentences."""
    best = min(report.runs, key=lambda run: run.result.loss)
    loss = f"{loss_text(best.result.loss)} nats per token."
    if len(report.runs) == 1:
        return [f"{best.result.name} ends at a held-out loss of {loss}"]
    found = [f"{best.result.name} has the lowest held-out loss, {loss}"]
    for guided in report.runs:
        twins = [run for run in report.runs if _is_unguided_twin(run, guided)]
        if len(twins) > 1 or report.dense is None:
            found += _against_controls(guided, twins)
        if twins and report.dense is not None:
            found.append(_gap_closed(guided, min(twins, key=lambda run: _flops_apart(run, guided)), report.dense))
    return found


def _flops_apart(run: FinishedRun, guided: FinishedRun) -> float:
    return abs(math.log(run.result.total_flops / guided.result.total_flops))


def _against_controls(guided: FinishedRun, twins: Sequence[FinishedRun]) -> list[str]:
    """The effect of guides on equal tokens and on equal FLOPs, for each pair that was trained."""
    kinds = {
        "as many tokens": [run for run in twins if run.result.steps == guided.result.steps],
        "as many FLOPs": [run for run in twins if _flops_apart(run, guided) < _EQUAL_FLOPS],
    }
    losses = {kind: runs[0].result.loss for kind, runs in kinds.items() if runs}
    if not losses:
        return []
    parts = [
        f"{loss_text(loss)} on {kind} ({percent_text(guided.result.loss / loss - 1)})" for kind, loss in losses.items()
    ]
    return [
        f"{guided.result.name} ends at {loss_text(guided.result.loss)}; without guides, one run each: {', '.join(parts)}."
    ]


def _is_unguided_twin(run: FinishedRun, guided: FinishedRun) -> bool:
    same_model = run.result.spec["model"] == guided.result.spec["model"]
    return guided.is_guided and not run.is_guided and same_model


def _gap_closed(guided: FinishedRun, plain: FinishedRun, dense: FinishedRun) -> str:
    gap = plain.result.loss - dense.result.loss
    closed = plain.result.loss - guided.result.loss
    flops = share_text(guided.result.total_flops / dense.result.total_flops)
    facts = (
        f"{guided.result.name} ends at {loss_text(guided.result.loss)} with {flops} of the FLOPs of "
        f"{dense.result.name} ({loss_text(dense.result.loss)}); without guides {plain.result.name} ends at "
        f"{loss_text(plain.result.loss)} with {share_text(plain.result.total_flops / dense.result.total_flops)}"
    )
    if gap <= 0:
        return f"{facts}, which leaves no gap to close."
    if closed <= 0:
        return f"{facts}: the guides did not help."
    share = f"{facts}: {share_text(closed / gap)} of the gap is closed."
    if guided.result.total_flops <= plain.result.total_flops:
        return share
    return f"{share} The guided run had more FLOPs than the one without: only that one on equal FLOPs shows what guides add."


def training_document(report: TrainingReport) -> dict[str, Any]:
    """The content of results.json: plain values."""
    return {
        "title": report.title,
        "data": report.data,
        "loss_name": "held-out loss, nats per token",
        "runs": [{**asdict(run.result), "curve": [asdict(point) for point in run.curve]} for run in report.runs],
        "findings": training_findings(report),
        "commands": list(report.commands),
        "environment": dict(report.environment),
    }


def write_training_results(path: str | os.PathLike[str], report: TrainingReport) -> None:
    """Write results.json whole or not at all."""
    write_atomically(path, json.dumps(training_document(report), indent=1, allow_nan=False) + "\n")
