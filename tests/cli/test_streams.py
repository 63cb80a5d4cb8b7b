"""Closed and full standard streams, and streams that cannot encode all characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EINSEARCH = f"{sys.executable} -m einsearch_cli"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The result of `einsearch …` in a shell; its output is read in the encoding that the environment asks for."""
    text = command.replace("einsearch", EINSEARCH)
    settings = {**os.environ, "PYTHONPATH": str(Path.cwd()), **environment}
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=settings, capture_output=True, encoding=encoding, check=False
    )


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("einsearch classify monarch >&-", 2, "error: stdout is closed: results go there\n"),
        ("einsearch classify - <&-", 2, "error: stdin is closed: there is nothing to read\n"),
        ("einsearch classify foo 2>&-", 2, ""),
        ("einsearch classify foo 2>/dev/full", 2, ""),
        ("einsearch classify monarch >/dev/full", 2, "error: cannot write the output: No space left on device\n"),
        ("einsearch classify monarch 2>&- | cat; exit ${PIPESTATUS[0]}", 0, ""),
        ("printf '\\xff\\xfe' | einsearch classify -", 2, "error: stdin is not UTF-8 (byte 0): text must be UTF-8\n"),
        ("yes monarch | einsearch classify -", 2, "error: stdin has more than 1,000,000 bytes\n"),
    ],
)
def test_streams_that_do_not_work(tmp_path: Path, command: str, code: int, err: str) -> None:
    found = shell(command, tmp_path)
    assert found.returncode == code, found.stderr
    assert found.stderr.partition("  try: ")[0] == err


def test_a_closed_stream_does_not_lend_its_number_to_a_file(tmp_path: Path) -> None:
    """Otherwise, prints of any code would end up in the file."""
    found = shell("einsearch enumerate --grid 1 --out found.yaml <&- 2>&-", tmp_path)
    assert found.returncode == 0
    assert (tmp_path / "found.yaml").read_text().startswith("structures:\n- ")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_characters_that_an_encoding_lacks_are_spelled_out(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "s.yaml").write_text('- {name: "naïve 😀 ω", structure: monarch}\n', encoding="utf-8")
    (tmp_path / "in.txt").write_text("monarch # ω\n", encoding="utf-8")
    assert "omega  sharing" in shell("einsearch classify monarch", tmp_path, **environment).stdout
    document = json.loads(
        shell("einsearch classify s.yaml --format json | cat", tmp_path, PYTHONIOENCODING="ascii").stdout
    )
    assert document["name"] == "naïve 😀 ω"
    found = shell("einsearch classify ωψ", tmp_path, **environment)
    assert found.returncode == 2
    assert "UnicodeEncodeError" not in found.stderr


def test_structures_from_pipes(tmp_path: Path) -> None:
    expected = "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2,monarch,"
    for command in (
        "echo monarch | einsearch classify /dev/stdin --format csv",
        "einsearch classify <(echo monarch) --format csv",
        "mkfifo pipe; echo monarch > pipe & einsearch classify pipe --format csv",
    ):
        assert expected in shell(command, tmp_path).stdout


def test_output_goes_on_behind_what_stdout_has(tmp_path: Path) -> None:
    shell("echo before > log; einsearch classify monarch --format csv --out /dev/stdout >> log", tmp_path)
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before"
    assert lines[2].startswith("XA^1/2 XAB^1/2")
