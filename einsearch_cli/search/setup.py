"""The setup of a study: in words for the head of its report, and as a study file that repeats it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from einsearch_cli.search.spec import BUDGETS, StudySpec
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.optimizer_words import update_words
from einsearch_cli.training.optimizers import DEFAULT

_INFINITE: Final = "inf"
"""Stands for a number that JSON does not have."""


def setup_words(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> dict[str, str]:
    """Name of a fact -> a sentence: task, data, network, batch, optimizer, learning rates, widths and seeds."""
    seeds = spec.ranking_seeds
    numbers = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    more = f", up to {spec.most_seeds} where the verdict is open" if spec.most_seeds else ""
    widths = (
        f"{', '.join(map(str, spec.widths))}, for every candidate."
        if spec.widths
        else "Searched: the best width of every candidate on every rung, and its two neighbours."
    )
    return {
        **task.described(),
        "Optimizer": _optimizer(spec),
        "Learning rate": _rates(spec, task),
        **_balance(spec, candidates),
        "Widths": widths,
        "Seeds": f"{numbers[0].upper()}{numbers[1:]}, which draw the network's start and the order of the data{more}.",
    }


def _optimizer(spec: StudySpec) -> str:
    settings = spec.optimizer
    schedule = f"{settings.warmup:.0%} of the steps warm-up, then a cosine to {settings.final:.0%}"
    return f"{update_words(settings)}; {schedule}; {spec.precision}."


def _balance(spec: StudySpec, candidates: Sequence[LayerSpec]) -> dict[str, str]:
    if not any(isinstance(layer, MixtureOfExperts) for layer in candidates):
        return {}
    return {"Experts": f"A loss of weight {spec.optimizer.auxiliary_weight:g} balances the load of the experts."}


def _rates(spec: StudySpec, task: AnyTask) -> str:
    given = spec.optimizer.learning_rate
    rate = task.settings.learning_rate if given is None else given
    base = f"{rate:g} at width {task.settings.base_width}; muP scales it to other widths and to factors"
    if spec.is_tuned:
        return f"Tuned for every candidate on the cheapest rung, around {base}."
    return f"The same for every candidate, {base}."


def whole_spec(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask) -> dict[str, Any]:
    """All settings of a study as plain values of JSON, from which `study_file` makes a file for `einsearch rank`.

    Candidates are listed, whatever they came from, and the budget is that of a run of the last rung.
    """
    dropped = {"files", "space", "structures", "task_settings", *BUDGETS}
    settings = spec.model_dump(mode="json", exclude=dropped, exclude_none=True)
    compared = [str(layer) for layer in spec.compared_with()[1:]]
    listed = [str(layer) for layer in candidates if layer not in spec.compared_with()]
    return {
        "name": settings.pop("name"),
        "task": settings.pop("task"),
        "task_settings": _given(task.settings.model_dump(mode="json")),
        "structures": listed,
        **settings,
        **({"baselines": compared} if compared else {}),
        "budget_flops": spec.budget_flops,
        "optimizer": {
            "name": DEFAULT,
            **settings["optimizer"],
            "clip_norm": spec.optimizer.clip_norm if math.isfinite(spec.optimizer.clip_norm) else _INFINITE,
        },
    }


def study_file(whole: Mapping[str, Any]) -> str:
    """The YAML text of a study from what `whole_spec` gave.

    >>> print(study_file({"name": "mine", "structures": ["monarch"], "optimizer": {"clip_norm": "inf"}}).rstrip())
    name: mine
    structures:
    - monarch
    optimizer:
      clip_norm: .inf
    """
    optimizer = {key: math.inf if value == _INFINITE else value for key, value in whole.get("optimizer", {}).items()}
    text: str = yaml.safe_dump(
        {**whole, **({"optimizer": optimizer} if optimizer else {})}, sort_keys=False, allow_unicode=True
    )
    return text


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings without those that are null."""
    kept = {key: _given(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value is not None}
