"""Runs that are stopped at any moment continue exactly, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.errors import DivergedError, OutputError
from einsearch_cli.training import ProxyRun, RunOutcome, StepDone
from einsearch_cli.training.proxy import keeping
from einsearch_cli.training.proxy.keeping import StateKeeper, end_when_saved, save_on_sigterm
from einsearch_cli.training.proxy.run import train_pack
from einsearch_cli.training.sealed import sealed_in
from tests.training.proxy.tasks import run_of, small_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

Ends = dict[int, RunOutcome | DivergedError]


class Stopped(Exception):
    """The exception that stops a pack."""


def keeper(folder: Path, runs: int, said: list[str] | None = None, interval_s: float = 0.0) -> StateKeeper:
    names = [f"run-{number}" for number in range(runs)]
    told: list[str] = [] if said is None else said
    return StateKeeper([folder / name for name in names], names, interval_s, lambda _, text: told.append(text))


def train(
    runs: list[ProxyRun], keep: StateKeeper | None = None, stop_after: int | None = None
) -> tuple[Ends, list[int]]:
    """The outcome of every run, and the steps of the first one that were made."""
    ends: Ends = {}
    steps: list[int] = []

    def on_step(number: int, done: StepDone) -> None:
        if number == 0:
            if done.step == stop_after:
                raise Stopped
            steps.append(done.step)

    train_pack(runs, on_step, ends.__setitem__, keep)
    return ends, steps


def plain(end: RunOutcome | DivergedError) -> Any:
    return replace(end, elapsed_s=0.0) if isinstance(end, RunOutcome) else str(end)


def pack(task: Any, kind: str) -> list[ProxyRun]:
    if kind == "program":
        run = run_of(task, "btt:r=2", width=32, budget_flops=1e8, name="adamw")
        fast = run.optimizer.model_copy(update={"learning_rate": 1e30})
        return [run, replace(run, seed=1), replace(run, seed=2, optimizer=fast)]
    structure, optimizer = kind.split()
    return [run_of(task, structure, width=32, budget_flops=1e8, name=optimizer)]


@pytest.mark.parametrize("kind", ["program", "btt-moe:experts=4,top=2 adamw", "btt:r=2 muon"])
def test_a_stopped_pack_goes_on_to_the_same_results(tmp_path: Path, kind: str) -> None:
    runs = pack(small_teacher(tmp_path), kind)
    whole, all_steps = train(runs)
    with pytest.raises(Stopped):
        train(runs, keeper(tmp_path, len(runs)), stop_after=8)
    said: list[str] = []
    ends, steps = train(runs[: 2 if kind == "program" else 1], keeper(tmp_path, len(runs), said))
    assert steps == all_steps[7:], "it goes on with the step that was stopped"
    assert {n: plain(end) for n, end in ends.items()} == {n: plain(end) for n, end in whole.items() if n < 2}
    assert said == []
    if kind == "program":
        assert isinstance(whole[2], DivergedError), "its neighbours do not notice"


def test_runs_at_different_steps_end_as_usual(tmp_path: Path) -> None:
    runs = pack(small_teacher(tmp_path), "program")[:2]
    whole, _ = train(runs)
    with pytest.raises(Stopped):
        train(runs[:1], keeper(tmp_path, 1), stop_after=5)
    ends, steps = train(runs, keeper(tmp_path, 2))
    assert steps[0] == 5
    assert {n: plain(end) for n, end in ends.items()} == {n: plain(end) for n, end in whole.items()}


def test_a_damaged_state_is_reported_and_the_run_starts_again(tmp_path: Path) -> None:
    runs = pack(small_teacher(tmp_path), "program")[:1]
    whole, all_steps = train(runs)
    with pytest.raises(Stopped):
        train(runs, keeper(tmp_path, 1), stop_after=8)
    for path in sealed_in(tmp_path / "run-0"):
        (path / "state.safetensors").write_bytes(b"")
    said: list[str] = []
    ends, steps = train(runs, keeper(tmp_path, 1, said, interval_s=1000.0))
    assert steps == all_steps
    assert plain(ends[0]) == plain(whole[0])
    [line] = said
    assert "is damaged: state.safetensors is not what was written" in line
    assert line.endswith("; the run begins again")


def test_states_are_saved_when_the_interval_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock is used, as the machine's clock may be set to any time."""
    now = [0.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(keeping.time, "time", lambda: pytest.fail("the clock of the machine"))
    keep = keeper(tmp_path, 1, interval_s=300.0)
    dues = []
    for now[0] in (299.0, 300.0):
        dues.append(keep.is_due)
    with keep.saving():
        pass
    now[0] = 599.0
    assert (dues, keep.is_due) == ([False, True], False)


def test_a_state_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("cannot save the checkpoint: No space left on device", remedy="make room")

    monkeypatch.setattr(keeping, "save_run_state", refuse)
    said: list[str] = []
    ends, _ = train(pack(small_teacher(tmp_path), "program")[:1], keeper(tmp_path, 1, said))
    assert isinstance(ends[0], RunOutcome)
    assert set(said) == {"cannot save the checkpoint: No space left on device; the run goes on without it"}


@pytest.fixture
def asked() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    keeping._asked.to_end = keeping._asked.waits = False


@pytest.mark.usefixtures("asked")
def test_a_process_that_is_asked_to_end_saves_first(tmp_path: Path) -> None:
    runs = pack(small_teacher(tmp_path), "program")[:2]
    whole, all_steps = train(runs)
    save_on_sigterm()

    def on_step(number: int, done: StepDone) -> None:
        if (number, done.step) == (0, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught, end_when_saved():
        train_pack(runs, on_step, lambda *_: None, keeper(tmp_path, 2, interval_s=1000.0))
    assert caught.value.code == 143
    keeping._asked.to_end = False
    ends, steps = train(runs, keeper(tmp_path, 2, interval_s=1000.0))
    assert steps == all_steps[5:]
    assert {n: plain(end) for n, end in ends.items()} == {n: plain(end) for n, end in whole.items()}


def test_a_process_without_runs_ends_at_once() -> None:
    code = (
        "import os, signal, time\nfrom einsearch_cli.training.proxy.keeping import save_on_sigterm\n"
        "save_on_sigterm()\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 143
