"""Hostile command lines: each one gets the right answer, or an error that names the cause.

Each module `cases_AREA.py` in this folder exports `CASES`, a tuple of `Case`.
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pytest

from einsearch_cli.cli.main import main
from tests.hostile.case import Case

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
TABLE = [
    pytest.param(case, id=f"{module.removeprefix('cases_')}: {case.label}")
    for module in MODULES
    for case in importlib.import_module(f"tests.hostile.{module}").CASES
]
INSIDES = ("Traceback", "unexpected", "report the output", "Value error", "Input should", "obeys this rule")
"""Words that no message may contain."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all cases, so that data are computed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("case", TABLE)
def test_hostile(
    case: Case, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    stdin = case.stdin if isinstance(case.stdin, bytes) else case.stdin.encode()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))

    code = main(case.argv)

    out, err = capsys.readouterr()
    assert code == case.code, err or out
    for text in case.says:
        assert text in err
    for text in case.shows:
        assert text in out
    for text in (*INSIDES, *case.never):
        assert text not in out + err
    if code == 2:
        assert err.count("error: ") == 1, err
        assert "\n  try: " in err


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 200
