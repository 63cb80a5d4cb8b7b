from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from einsearch_cli import plugins
from einsearch_cli.cli.main import main
from einsearch_cli.data import base
from einsearch_cli.training import optimizers


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


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


@pytest.fixture
def registers() -> Iterator[None]:
    """What plug-ins register in this process is forgotten after the test."""
    yield
    plugins._LOADED.clear()
    for register in (base._REGISTER, optimizers._REGISTER):
        for name in [name for name, entry in register.items() if entry.__module__.startswith("einsearch_plugin_")]:
            del register[name]
