"""The wheel and the sdist as a user gets them; run by `make package`, as pip downloads what they need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.package, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Python versions that the classifiers name, and the next one."""


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without the project's tree in its path."""
    found = subprocess.run([str(word) for word in words], cwd=cwd, env=_environment(), capture_output=True, text=True)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def test_the_sdist_has_docs_specs_examples_and_all_that_make_needs(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"docs/guide/export.md", "specs/demo.yaml", "examples/swap_linear.py", "tests/conftest.py"}
    assert wanted | {"constraints.txt", "Makefile", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= files
    tracked = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n"))
    assert {name for name in tracked if name.startswith("einsearch_cli/")} <= files


def test_the_wheel_is_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"einsearch_cli", "einsearch"}
    assert {"einsearch_cli/py.typed", "einsearch_cli/reports/templates/table.html"} <= set(names)
    specs = {f"einsearch_cli/{path.relative_to(ROOT)}" for path in (ROOT / "specs").rglob("*.yaml")}
    assert specs == {name for name in names if name.startswith("einsearch_cli/specs/")}


def test_the_metadata_say_who_what_and_where(metadata: Message) -> None:
    assert metadata["Author"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Keywords"]
    assert metadata.get_all("Project-URL")
    classifiers = metadata.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    assert {f"Programming Language :: Python :: {version}" for version in PYTHONS[:3]} <= set(classifiers)
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert not [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith(("http", "#"))]
    assert "`docs/guide/swap.md`" in page, "the page names the files that it cannot link to"


COMMANDS = (
    "--version",
    "families",
    "classify monarch --d-in 64",
    "enumerate --grid 2 --count",
    "sample --factors 3 -n 1 --seed 0",
    "params s --structure btt:r=2",
    "tasks",
    "classify structures",
    "train train-structured --help",
)


@pytest.mark.parametrize("version", PYTHONS)
def test_it_installs_and_starts_without_torch(wheel: Path, metadata: Message, tmp_path: Path, version: str) -> None:
    """Commands that do not train work without torch, which comes with two gigabytes of CUDA from PyPI."""
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    run(python, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    own = tmp_path / "venv" / "bin" / "python"
    needed = [each for each in metadata.get_all("Requires-Dist") or [] if "extra ==" not in each]
    others = [each for each in needed if not each.startswith("torch")]
    assert len(others) == len(needed) - 1
    run(own, "-m", "pip", "install", "--quiet", *others, cwd=tmp_path)
    run(own, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    for command in COMMANDS:
        assert run(own.with_name("einsearch"), *command.split(), cwd=tmp_path), command
    package = run(own, "-c", "import einsearch_cli; print(einsearch_cli.__path__[0])", cwd=tmp_path).strip()
    assert Path(package).is_relative_to(tmp_path)
    run(own, "-W", "error", "-m", "compileall", "-q", "-f", package, cwd=tmp_path)


def _interpreter(version: str) -> str | None:
    """A Python of this version from the path or from pyenv, whose commands in the path may be disabled."""
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    works = (str(each) for each in found if each and not subprocess.run([each, "-V"], capture_output=True).returncode)
    return next(works, None)


RIGHT = """\
import torch
from einsearch_cli import EinsumLinear, SwapReport, classify, parse_structure, read_study, swap_linear

model = torch.nn.Sequential(torch.nn.Linear(64, 64), EinsumLinear(64, 10, "btt:r=2"))
report: SwapReport = swap_linear(model, "monarch", filter=lambda layer, name: layer.in_features == 64)
share: float = report.covered_params
omega: str = str(classify(parse_structure("monarch"), 64, 64).omega)
print(share, report.records(), omega, read_study)
"""
WRONG = """\
from einsearch_cli import EinsumLinear, classify, parse_structure

layer: int = EinsumLinear(64, 10, "btt:r=2")
text: bytes = classify(parse_structure("monarch")).family
"""


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_find_an_editable_install(tmp_path: Path, checker: str) -> None:
    """With `pip install -e .`, as README says: a correct script passes, and both errors of a wrong one are found."""
    if checker == "pyright" and shutil.which("node") is None:
        pytest.skip("pyright needs node")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    own = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    torch_is_in = Path(run(sys.executable, "-c", "import torch; print(torch.__path__[0])", cwd=tmp_path).strip()).parent
    (site / "others.pth").write_text(f"{torch_is_in}\n")
    run(own, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", ROOT, cwd=tmp_path)
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    words = ["mypy", "--strict", "--python-executable"] if checker == "mypy" else ["pyright", "--pythonpath"]
    command = [sys.executable, "-m", *words, str(own)]
    run(*command, "right.py", cwd=tmp_path)
    found = subprocess.run([*command, "wrong.py"], cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    errors = [line for line in found.stdout.splitlines() if re.search(r"wrong\.py:\d+.* error:", line)]
    assert [int(re.search(r"\.py:(\d+)", line)[1]) for line in errors] == [3, 4], found.stdout  # type: ignore[index]
