"""Run the tests with other versions of torch, each in a new environment that is removed afterwards.

    python benchmarks/torch_versions.py 2.9.1 latest
    python benchmarks/torch_versions.py 2.9.1 --tests tests/layers --index https://download.pytorch.org/whl/cpu

PyPI's torch for Linux brings CUDA, about 3 GB a version; `--index` names a place that has builds for the CPU alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("layers", "moe", "guided", "projection", "swap", "compression", "models")
TESTS = (*(f"tests/{room}" for room in ROOMS), "tests/export/test_copies.py")
BESIDE = ("pytest", "pytest-timeout", "hypothesis", "networkx")
"""Packages that the tests need; tests of missing packages are skipped."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one version."""

    wanted: str
    torch: str
    """The installed version; empty if it could not be installed."""
    summary: str
    """The last line of pytest, or of pip if that failed."""
    seconds: float


def main() -> int:
    """Print a row for each version; the exit code is the number of versions that fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", help="such as 2.9.1; latest for the newest")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--index", help="page of wheels that is looked at besides PyPI")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files and folders of tests")
    options = parser.parse_args()
    failed = 0
    for version in options.versions:
        found = tested(version, options.python, options.index, options.tests)
        print(f"{found.wanted:10}  {found.torch or '–':14}  {found.seconds:6.0f} s  {found.summary}", flush=True)
        failed += " passed" not in found.summary or " failed" in found.summary or " error" in found.summary
    return failed


def tested(version: str, python: str, index: str | None, tests: list[str]) -> Outcome:
    """Install one version and run the tests with it."""
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "venv", Path(folder) / "venv"], check=True)
        torch = "torch" if version == "latest" else f"torch=={version}"
        extra = ["--extra-index-url", index] if index else []
        words: list[str | Path] = [own, "-m", "pip", "install", "--quiet", *extra, torch, *BESIDE, "--editable", ROOT]
        installed = subprocess.run(words, capture_output=True, text=True)
        if installed.returncode:
            return Outcome(version, "", _last(installed.stderr), time.perf_counter() - started_s)
        code = "import torch; print(torch.__version__)"
        is_there = subprocess.run([own, "-c", code], capture_output=True, text=True)
        if is_there.returncode:
            return Outcome(version, "", _last(is_there.stderr), time.perf_counter() - started_s)
        ran = subprocess.run(
            # Not quiet, so that the last line counts; warnings of other versions are not errors.
            [own, "-m", "pytest", "-v", "-W", "default", "-p", "no:cacheprovider", "--no-header", *tests],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return Outcome(version, is_there.stdout.strip(), _last(ran.stdout), time.perf_counter() - started_s)


def _last(text: str) -> str:
    lines = [line.strip("= ") for line in text.splitlines() if line.strip("= ")]
    return lines[-1] if lines else "no output"


if __name__ == "__main__":
    sys.exit(main())
