"""Runs that take too much: time, memory, output, or other processes."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.job import TrialSetup
from tests.faults.driving import UNRULY, is_running
from tests.search.engine_contract import endings, job
from tests.search.test_local_engine import SMALL, comes_true


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


UNRULY_WIDTH = 24


def unruly(act: str, folder: Path, **limits: Any) -> TrialSetup:
    """A setup whose trials of width 24 misbehave like this."""
    settings = SMALL | {"act": act, "folder": str(folder)}
    return TrialSetup("unruly", settings, plugins=(str(UNRULY),), **limits)


def test_a_run_that_hangs_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    with LocalProcesses(unruly("hang", tmp_path, run_timeout_s=5.0), 1) as engine:
        found = endings(engine, [job(0, width=UNRULY_WIDTH), job(1)])
    assert found[0].result.error == "the run took longer than the 5 s of --run-timeout"
    assert not found[0].worker_died, "it would hang again"
    assert found[1].result.status == "ok"


def test_the_runs_of_a_pack_that_hangs_are_to_be_tried_one_by_one(tmp_path: Path) -> None:
    with LocalProcesses(unruly("hang", tmp_path, run_timeout_s=1.0), 1) as engine:
        found = endings(engine, [job(n, width=UNRULY_WIDTH) for n in range(2)], pack=2)
    assert [found[n].worker_died for n in range(2)] == [True, True]


def test_a_run_that_needs_too_much_memory_fails_with_the_limit(tmp_path: Path) -> None:
    with LocalProcesses(unruly("allocate", tmp_path, worker_memory=2_000_000_000), 1) as engine:
        found = endings(engine, [job(0, width=UNRULY_WIDTH), job(1)])
    assert (found[0].result.error or "").startswith(
        "the run needs more than the 2 GB of --worker-memory: RuntimeError:"
    )
    assert found[1].result.status == "ok", "the worker goes on"


def test_a_run_that_prints_without_end_fills_no_memory(tmp_path: Path) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LocalProcesses(unruly("print_much", tmp_path), 1) as engine:
        end = endings(engine, [job(0, width=UNRULY_WIDTH)])[0]
    assert end.output.startswith("the first words\n")
    assert "the last words\nTraceback (most recent call last):" in end.output
    assert end.output.endswith("ValueError: no more to say\n")
    assert "bytes left out" in end.output
    assert len(end.output) < 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_child_processes_of_a_worker_end_with_it(tmp_path: Path) -> None:
    with LocalProcesses(unruly("start_another", tmp_path, run_timeout_s=5.0), 1) as engine:
        assert endings(engine, [job(0, width=UNRULY_WIDTH)])[0].result.status == "failed"
        child = int((tmp_path / "child").read_text())
        assert comes_true(lambda: not is_running(child), within_s=5)


def test_the_last_words_of_a_killed_worker_are_kept(tmp_path: Path) -> None:
    with LocalProcesses(unruly("die", tmp_path), 1) as engine:
        end = endings(engine, [job(0, width=UNRULY_WIDTH)])[0]
    assert (end.worker_died, end.output) == (True, "dying\n")
