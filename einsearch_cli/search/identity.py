"""The identity of a study: everything on which the comparability of its runs depends."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from einsearch_cli.search.spec import StudySpec
from einsearch_cli.tasks import AnyTask

FORMAT = 3
"""Number of the format; it rises when a trial's result or key changes. Since 3, a key holds the budget and the rate."""


def readable(spec: StudySpec, task: AnyTask) -> dict[str, Any]:
    """The identity as plain values, for people who ask how two studies differ."""
    return {
        **_deciding(spec),
        "task_format": task.format,
        "task_settings": task.settings.model_dump(mode="json"),
        "data": task.data_digest()[:12],
    }


def _deciding(spec: StudySpec) -> dict[str, Any]:
    """The settings that determine the result of a trial, without those of the task."""
    settings = spec.model_dump(mode="json", include={"task", "optimizer"}) | {"format": FORMAT}
    # Studies from before there was a choice keep their identity.
    return settings if spec.precision == "float32" else settings | {"precision": spec.precision}


def fingerprint(spec: StudySpec, task: AnyTask) -> str:
    """SHA-256 of everything that determines the result of a trial; the set of trials may change."""
    settings = {**_deciding(spec), "data": task.fingerprint()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
