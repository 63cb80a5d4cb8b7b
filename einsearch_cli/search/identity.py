"""What makes the runs of a study comparable with others: a study of another identity is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from einsearch_cli.search.spec import StudySpec
from einsearch_cli.tasks import AnyTask

FORMAT = 3
"""Rises when the same trial gives another result or has another key: 3 since a key holds the budget and the rate."""


def readable(spec: StudySpec, task: AnyTask) -> dict[str, Any]:
    """What makes runs comparable, as plain values: for people who ask what differs between two studies."""
    return {
        **_deciding(spec),
        "task_format": task.format,
        "task_settings": task.settings.model_dump(mode="json"),
        "data": task.data_digest()[:12],
    }


def _deciding(spec: StudySpec) -> dict[str, Any]:
    """The settings that decide what a trial gives, without those of the task."""
    settings = spec.model_dump(mode="json", include={"task", "optimizer"}) | {"format": FORMAT}
    # Studies that were begun before there was a choice go on.
    return settings if spec.precision == "float32" else settings | {"precision": spec.precision}


def fingerprint(spec: StudySpec, task: AnyTask) -> str:
    """SHA-256 of everything that decides what a trial gives; which trials there are may change."""
    settings = {**_deciding(spec), "data": task.fingerprint()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
