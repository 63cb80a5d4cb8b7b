"""`results.json`: all findings of a study, for other programs."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

from einsearch_cli.files import write_atomically
from einsearch_cli.reports.confirmation import confirmed_structures
from einsearch_cli.reports.study_report import StudyReport

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.trial import TrialResult


def results_document(study: StudyReport) -> dict[str, Any]:
    """The content of results.json: plain values, and null where a number is not finite.

    Keys: `task`, `budget_flops` (training FLOPs per run at the last rung, embeddings and
    head not counted), `results` (one object per run), `ranking` (best first), `comparisons`
    (for every baseline the same as `ranking` with it as the yardstick, which `Ranking.from_json`
    reads), `confirmation`, `tuning` and `unbalanced` (like `results`: new seeds of the best, runs that only looked for
    learning rates, runs without balance loss), `confirmed` (`Confirmed` of each confirmed structure: means, and runs far
    from them), `explored` and `exploration` (runs of a search for candidates, and fields of
    `Exploration`, null where candidates were given), `rates` (`TunedRate.to_json` of each structure), `controls` (structures
    that were added, and the candidates of each), `exponents` (`ExponentEffects.to_json`), `spending` (fields of `Spending`:
    plan, looks, what was saved), `coordinates` (`LayerCoordinates.to_json` of every layer that was checked), `step_seconds`
    (of a training step, timed in a race), `setup` (what was trained on what, in words), `spec` (the study file that repeats
    it), besides `title`, `loss_name`, `run_time_s` (summed over runs) and `environment`,
    and the fields of `Ranking`. Structures are written in the text notation, which `parse_layer` reads;
    ω, ψ and ν as exact fractions such as "1/2"; `rung` counts from 0. A run of which `trained_as` names another
    structure is a copy of that one's: both are the same network at this width.
    """
    document = {
        "title": study.title,
        "task": study.task,
        "loss_name": study.loss_name,
        "budget_flops": study.budget_flops,
        "run_time_s": sum(result.elapsed_s for result in study.all_runs if result.trained_as is None),
        **{key: value for key, value in study.ranking.to_json().items() if key != "entries"},
        "results": [_run(study, result) for result in study.results],
        "confirmation": [_run(study, result) for result in study.confirmation],
        "tuning": [_run(study, result) for result in study.tuning],
        "unbalanced": [_run(study, result) for result in study.unbalanced],
        "explored": [_run(study, result) for result in study.explored],
        "exploration": study.exploration
        and {
            **study.exploration.to_json(),
            "found": list(map(str, study.exploration.found)),
            "rival": study.exploration.rival and str(study.exploration.rival),
        },
        "rates": [{"structure": str(s), **rate.to_json()} for s, rate in study.rates.items()],
        "step_seconds": [
            {"structure": str(s), "width": width, "seconds": seconds}
            for (s, width), seconds in study.step_seconds.items()
        ],
        "spending": study.spending and study.spending.to_json(),
        "coordinates": [item.to_json() for item in study.coordinates],
        "exponents": study.exponent_effects and study.exponent_effects.to_json(),
        "controls": [{"structure": str(s), "of": list(map(str, of))} for s, of in study.controls.items()],
        "ranking": [entry.to_json() | study.taxonomy_record(entry.structure) for entry in study.ranking.entries],
        "confirmed": [item.to_json() | {"structure": str(item.structure)} for item in confirmed_structures(study)],
        "comparisons": [ranking.to_json() for ranking in study.comparisons],
        "setup": dict(study.setup),
        "spec": dict(study.spec),
        "environment": dict(study.environment),
        "commands": list(study.commands),
    }
    plain: dict[str, Any] = _finite(document)
    return plain


def write_results(path: str | os.PathLike[str], study: StudyReport) -> None:
    """Write results.json whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    text = json.dumps(results_document(study), indent=1, allow_nan=False)
    write_atomically(path, text + "\n")


def _run(study: StudyReport, result: TrialResult) -> dict[str, Any]:
    return {
        **study.run_record(result),
        "routing": [layer.to_json() for layer in result.routing],
        "curve": [list(point) for point in result.curve],
    }


def _finite(value: Any) -> Any:
    """A copy of the value with null for every number that strict JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
