from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from einsearch_cli.cli.main import main
from einsearch_cli.search import estimate
from einsearch_cli.speed import race


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of a study is timed before it starts, and its networks a few times at its end: seconds for each study."""
    monkeypatch.setattr(estimate, "MOST_PROBING_S", 0.0)
    monkeypatch.setattr(race, "MOST_ROUNDS", race.FEWEST_ROUNDS)


@pytest.fixture
def einsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: Any) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(code), captured.out, captured.err)

    return run
