"""Plug-ins: where they are found, and errors for those that cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.errors import PluginError
from einsearch_cli.plugins import load_plugins, loaded_plugins
from einsearch_cli.reports import report_section
from einsearch_cli.structures import families
from einsearch_cli.taxonomy import criteria
from tests.reports.reading import figures

Einsearch = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("registers")


def test_a_plug_in_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(
        "from pathlib import Path\nwith Path(__file__).with_suffix('.log').open('a') as log: log.write(__name__ + ' ')\n"
    )
    monkeypatch.chdir(tmp_path)
    load_plugins(["counting.py", str(tmp_path / "counting.py")])
    load_plugins(["counting.py"])
    assert (tmp_path / "counting.log").read_text() == "einsearch_plugin_counting "
    assert loaded_plugins() == (str(tmp_path / "counting.py"),)


def test_an_installed_module_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "installed_plugin.py").write_text("print('here')\n")
    code = "import sys; from einsearch_cli.cli.main import main; sys.exit(main(['families']))"
    for name, expected in (("installed_plugin", 0), ("installed_plugn", 2)):
        environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "EINSEARCH_PLUGINS": name}
        found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert found.returncode == expected, found.stderr
        assert found.stdout.startswith("here") == (expected == 0)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "FileNotFoundError: [Errno 2] No such file or directory: '{path}'"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (
            "from einsearch_cli.training.optimizers import register\n"
            "from einsearch_cli.training.optimizers.adamw import AdamW\n"
            "class Other(AdamW): pass\n"
            "register(Other())",
            "ValueError: two optimizers are named 'adamw'",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(einsearch: Einsearch, tmp_path: Path, text: str | None, cause: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    found = einsearch("tasks", "--plugin", path)
    assert found.code == 2
    problem = f"plug-in {path} cannot be imported: {cause.format(path=path)}"
    assert found.err.startswith(
        f"error: {problem}\n  try: give the path of a .py file, or the name of an installed module"
    )
    with pytest.raises(PluginError) as caught:
        load_plugins([str(path)])
    assert caught.value.problem == problem
    assert loaded_plugins() == ()


ALL = Path(__file__).with_name("plugin_of_all.py")
STUDY = """\
task: absolute
task_settings: {scale: SCALE, teacher_width: 16, pool_size: 512, validation_size: 64, batch_size: 32}
structures: [half-monarch, low-rank]
widths: [16]
seeds: 2
budget_flops: 5e6
halving: {rungs: 1}
rates: fixed
confirm: 0
optimizer: {name: momentum, learning_rate: 0.01}
"""


@pytest.mark.usefixtures("one_thread")
def test_one_of_each_is_registered_and_used(
    einsearch: Einsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family, a task, an optimizer, an engine and a figure; the local engine's workers know them too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "half-monarch" in einsearch("--plugin", ALL, "families").out
    assert "absolute  scale" in einsearch("--plugin", ALL, "tasks").out
    losses = {}
    for name, scale, engine in (("ours", 1, "local"), ("theirs", 1, "in-process"), ("scaled", 3, "in-process")):
        (tmp_path / "study.yaml").write_text(STUDY.replace("SCALE", str(scale)))
        words = ("rank", tmp_path / "study.yaml", "--engine", engine, "--workers", "1", "--out", tmp_path / name)
        found = einsearch("--plugin", ALL, *words)
        assert found.code == 0, found.err
        losses[name] = [run["loss"] for run in json.loads((tmp_path / name / "results.json").read_text())["results"]]
    assert losses["theirs"] == losses["ours"] != losses["scaled"]
    assert "half-monarch" in found.out
    assert "loss: validation loss (mean absolute error)" in found.err
    drawn = figures((tmp_path / "scaled" / "report.html").read_text())
    assert list(drawn)[-1] == "duration"
    assert sorted(mark.y[0] for mark in drawn["duration"].panel.of("dot")) == pytest.approx(
        sorted(losses["scaled"]), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["family", "criterion", "section"])
def test_names_are_given_once(kind: str) -> None:
    def register_again() -> None:
        if kind == "family":
            families.register(families.find_family("monarch"))
        elif kind == "criterion":
            criteria.register(criteria.CRITERIA["compute"])
        else:
            report_section("ranking", "Another one")(lambda _: None)

    with pytest.raises(ValueError, match=rf"two \w+ are named '{'monarch' if kind == 'family' else ''}"):
        register_again()
