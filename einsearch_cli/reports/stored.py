"""Studies read back from `results.json`, and ranked again from their runs alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_args

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.reports.study_report import StudyReport
from einsearch_cli.reports.training import CurvePoint, FinishedRun, TrainingReport
from einsearch_cli.scaling.ranking import FORMAT
from einsearch_cli.search.outcome import Exploration, Spending, TunedRate
from einsearch_cli.structures import RoutingStatistics, parse_layer
from einsearch_cli.training.proxy.trial import Stage, Status, Trial, TrialResult
from einsearch_cli.training.proxy.width_trends import LayerCoordinates

_AGAIN: Final = "run the study again with `einsearch rank`"
_LISTS: Final = ("results", "confirmation", "tuning", "unbalanced")


def read_study(path: str | os.PathLike[str], at: float | None = None) -> StudyReport:
    """The study of a results.json, or of the folder that `einsearch rank` wrote; its ranking is computed again.

    Args:
        path: of the file or the folder.
        at: training FLOPs at which losses are to be predicted by scaling laws.

    Raises:
        SpecError: no such file, not the results of a study, or of another format.
    """
    file = Path(path)
    file = file / "results.json" if file.is_dir() else file
    try:
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"{file}: no such file", remedy="give a folder that `einsearch rank` wrote, or its results.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{file} cannot be read as JSON: {error}", remedy=_AGAIN) from error
    if not isinstance(document, dict) or "ranking" not in document or "results" not in document:
        raise SpecError(
            f"{file} does not hold the results of a study", remedy="give the results.json of `einsearch rank`"
        )
    if document.get("format") != FORMAT:
        raise SpecError(
            f"{file} holds results of format {document.get('format', 1)!r}: format {FORMAT} is read", remedy=_AGAIN
        )
    try:
        return _study(document, at)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, EinsearchError) as error:
        raise SpecError(f"{file} is damaged: {type(error).__name__}: {error}", remedy=_AGAIN) from error


def read_training(path: str | os.PathLike[str]) -> TrainingReport | None:
    """The runs of a results.json, or of the folder, that `einsearch train` wrote; None where it is not one of these.

    Raises:
        SpecError: the results are damaged.
    """
    file = Path(path)
    file = file / "results.json" if file.is_dir() else file
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or "ranking" in document or "runs" not in document:
        return None
    from einsearch_cli.training.full import RunResult

    try:
        runs = tuple(
            FinishedRun(
                RunResult(**{name: value for name, value in row.items() if name != "curve"}),
                tuple(CurvePoint(**point) for point in row["curve"]),
            )
            for row in document["runs"]
        )
        return TrainingReport(
            title=document["title"],
            runs=runs,
            data=document["data"],
            commands=tuple(document["commands"]),
            environment=tuple(document["environment"].items()),
        )
    except (LookupError, TypeError, AttributeError) as error:
        remedy = "the same `einsearch train` command writes them again, without training"
        raise SpecError(f"{file} is damaged: {type(error).__name__}: {error}", remedy=remedy) from error


def _study(document: Mapping[str, Any], at: float | None) -> StudyReport:
    runs = {name: tuple(_result(row) for row in document[name]) for name in _LISTS}
    seconds = {(parse_layer(row["structure"]), row["width"]): row["seconds"] for row in document["step_seconds"]}
    searched = document.get("exploration")  # studies of earlier versions have none
    yardsticks = [document["yardstick"], *(item["yardstick"] for item in document["comparisons"])]
    return StudyReport.of_runs(
        list(map(parse_layer, yardsticks)),
        at=at,
        title=document["title"],
        task=document["task"],
        budget_flops=document["budget_flops"],
        explored=tuple(_result(row) for row in document.get("explored", ())),
        exploration=None if searched is None else _exploration(searched),
        rates={parse_layer(row["structure"]): TunedRate.from_json(row) for row in document["rates"]},
        controls={parse_layer(row["structure"]): tuple(map(parse_layer, row["of"])) for row in document["controls"]},
        spending=None if document["spending"] is None else Spending.from_json(document["spending"]),
        step_seconds=seconds,
        coordinates=tuple(LayerCoordinates.from_json(row) for row in document["coordinates"]),
        loss_name=document["loss_name"],
        setup=dict(document.get("setup", {})),
        spec=dict(document.get("spec", {})),
        commands=tuple(document["commands"]),
        environment=tuple(document["environment"].items()),
        **runs,
    )


def _exploration(row: Mapping[str, Any]) -> Exploration:
    rival = row["rival"]
    plain = {name: row[name] for name in _names(Exploration) - {"found", "rival"}}
    return Exploration(
        found=tuple(map(parse_layer, row["found"])), rival=None if rival is None else parse_layer(rival), **plain
    )


def _result(row: Mapping[str, Any]) -> TrialResult:
    _check(row)
    trial = {name: row[name] for name in _names(Trial) - {"structure"}}
    plain = {name: row[name] for name in _names(TrialResult) - {"trial", "curve", "routing", "trained_as"}}
    return TrialResult(
        trial=Trial(structure=parse_layer(row["structure"]), **trial),
        curve=tuple((flops, math.nan if loss is None else loss) for flops, loss in row["curve"]),
        routing=tuple(RoutingStatistics.from_json(layer) for layer in row["routing"]),
        trained_as=None if row["trained_as"] is None else parse_layer(row["trained_as"]),
        **plain,
    )


_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("rung", "width", "seed", "params", "steps"), (int,)),
    **dict.fromkeys(("budget_flops", "rate", "train_flops", "total_flops", "elapsed_s"), (int, float)),
    **dict.fromkeys(("loss", "learning_rate", "tokens", "executed_flops"), (int, float, type(None))),
    "error": (str, type(None)),
    "balanced": (bool,),
}


def _check(row: Mapping[str, Any]) -> None:
    """Raise SpecError for values that no run can have."""
    for name, kinds in _KINDS.items():
        if not isinstance(row[name], kinds) or (isinstance(row[name], bool) and bool not in kinds):
            raise ValueError(f"{name} is {row[name]!r}")
    for name, known in (("stage", get_args(Stage)), ("status", get_args(Status))):
        if row[name] not in known:
            raise ValueError(f"{name} is {row[name]!r}")
    if row["width"] < 1 or row["rung"] < 0 or row["budget_flops"] <= 0 or row["steps"] < 0:
        raise ValueError("a width, rung, budget or number of steps that no run has")


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}
