"""A task outside the package, the one of docs/guide/plugins.md: it meets the contract and is listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.plugins import load_plugins
from einsearch_cli.tasks import AnyTask, open_task, task_names
from tests.cli.conftest import einsearch  # noqa: F401
from tests.tasks.contract import TaskContract

DOCS = Path(__file__).parents[2] / "docs" / "guide" / "plugins.md"


@pytest.fixture(autouse=True)
def plugin(registers: None, tmp_path: Path) -> Path:  # noqa: ARG001
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert found is not None
    path = tmp_path / "sine.py"
    path.write_text(found[1])
    return path


class TestSineContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        load_plugins([str(cache_folder / "sine.py")])
        return open_task("sine", cache_folder=cache_folder)


def test_it_is_listed(
    einsearch: Callable[..., Any],  # noqa: F811
    plugin: Path,
) -> None:
    listed = einsearch("--plugin", plugin, "tasks", "--format", "json")
    rows = {row["setting"]: row for row in json.loads(listed.out) if row["task"] == "sine"}
    assert rows["frequency"] == {
        "task": "sine",
        "setting": "frequency",
        "default": "3",
        "meaning": "Factor on the sum of the inputs.",
    }


def test_without_the_plug_in_its_study_is_refused(
    einsearch: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("task: sine\nstructures: [monarch]\n")
    found = einsearch("rank", study)
    assert (found.code, task_names()) == (2, ("pixels", "teacher", "text"))
    assert found.err == (
        f"error: {study}:1: no task is named 'sine': the tasks are pixels, teacher, text\n"
        "  try: use one of these, or give the file that registers it: --plugin FILE.py\n"
    )
