"""Packages that register by entry points, installed by pip into a separate folder."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_plugins import ALL, STUDY

ROOT = Path(__file__).parents[1]
FAMILY = """\
from fractions import Fraction
from einsearch_cli.structures import families
from einsearch_cli.structures.extent import Extent
families.register(
    families.Family(
        name="demo-monarch",
        carriers="XA XB YB YAB",
        parameters={},
        build=lambda _: dict.fromkeys(("XA", "XB", "YB", "YAB"), Extent.power(Fraction(1, 2))),
        guess=lambda _: {},
        formulas=families.Formulas("0", "1", "1/2"),
        source="here",
    )
)
"""
ENTRY_POINTS = """\
[einsearch.families]
demo-monarch = demo_family
broken-family = demo_broken

[einsearch.tasks]
absolute = demo_plugin
broken-task = demo_broken
nothing = demo_nothing

[einsearch.optimizers]
momentum = demo_plugin

[einsearch.engines]
in-process = demo_plugin
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with one of each kind, a module that cannot be imported, and one that registers nothing."""
    folder = tmp_path_factory.mktemp("packages")
    wheel = folder / "demo-1.0-py3-none-any.whl"
    info = "demo-1.0.dist-info"
    files = {
        "demo_plugin.py": ALL.read_text(),
        "demo_family.py": FAMILY,
        "demo_broken.py": "import nothing_of_this_name\n",
        "demo_nothing.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    site = folder / "site"
    words = ["install", "--quiet", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)
    return site


def einsearch(site: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "einsearch_cli", *map(str, words)]
    environment = {"PYTHONPATH": f"{site}:{ROOT}", "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HOME": str(site)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


BROKEN = "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'"


def test_families_are_known_and_a_broken_one_is_named(packages: Path) -> None:
    found = einsearch(packages, "classify", "demo-monarch", "--d-in", "64", "--format", "json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["family"] == "demo-monarch"
    warning = f"warning: plug-in demo_broken of demo, which registers 'broken-family' in einsearch.families, {BROKEN}"
    assert " ".join(found.stderr.split()) == f"{warning}; it is left out"


def test_tasks_are_listed_and_a_broken_one_is_refused_when_it_is_asked_for(packages: Path) -> None:
    listed = einsearch(packages, "tasks")
    assert listed.returncode == 0, listed.stderr
    assert "absolute  scale" in listed.stdout
    assert f"'broken-task' in einsearch.tasks, {BROKEN}" in " ".join(listed.stderr.split())
    asked = einsearch(packages, "rank", "monarch", "--widths", "16", "--task", "broken-task")
    assert asked.returncode == 2
    assert f"'broken-task' in einsearch.tasks, {BROKEN}" in " ".join(asked.stderr.split())
    assert "try: install another version of demo, or remove it" in asked.stderr
    other = einsearch(packages, "rank", "monarch", "--widths", "16", "--task", "nothing")
    assert other.returncode == 2
    assert "plug-in demo_nothing was imported for the task 'nothing' and registers none of that name" in other.stderr


@pytest.mark.parametrize("engine", ["local", "in-process"])
def test_a_study_uses_one_of_each(packages: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("SCALE", "1").replace("half-monarch, low-rank", "demo-monarch"))
    words = (
        "--engine",
        engine,
        "--workers",
        "1",
        "--seeds",
        "1",
        "--rates",
        "fixed",
        "--no-controls",
        "--confirm",
        "0",
        "--out",
        tmp_path / "out",
    )
    found = einsearch(packages, "rank", tmp_path / "study.yaml", *words)
    assert found.returncode == 0, found.stderr
    assert "demo-monarch" in found.stdout
    assert "loss: validation loss (mean absolute error)" in found.stderr


def test_families_in_python_are_loaded_with_the_first_unknown_name(packages: Path) -> None:
    code = (
        "import warnings; from einsearch_cli import parse_structure\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    parse_structure('monarch'); assert not caught\n"
        "    print(parse_structure('demo-monarch'), [str(one.message)[:30] for one in caught])\n"
    )
    environment = {"PYTHONPATH": f"{packages}:{ROOT}"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == "XA^1/2 XB^1/2 YB^1/2 YAB^1/2 ['warning: plug-in demo_broken o']\n", found.stderr
