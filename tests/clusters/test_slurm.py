"""The engine of a Slurm cluster, with tasks that are processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines.slurm import SlurmWorkers
from einsearch_cli.search.job import TrialProgress
from tests.clusters.studies import finished_keys, results, start
from tests.search.engine_contract import SETUP, EngineContract, Event, endings, job
from tests.search.test_local_engine import comes_true, is_running

pytestmark = pytest.mark.cluster
LOCAL = {"executor": "local", "lease": "4s"}


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


class TestSlurmWorkers(EngineContract):
    kind = SlurmWorkers
    options: ClassVar[Mapping[str, str]] = LOCAL


def workers_of(folder: Path) -> list[int]:
    """Process ids of the workers that have given a sign of life."""
    return [int(beat.stem.rpartition("-")[2]) for beat in folder.glob(".einsearch-slurm/*/beats/[!.]*.json")]


@pytest.mark.parametrize(("sign", "died"), [(signal.SIGTERM, False), (signal.SIGKILL, True)])
def test_a_task_that_is_ended_is_replaced(sign: signal.Signals, died: bool, tmp_path: Path) -> None:
    """A preempted task returns its runs, and they start elsewhere; runs of a lost task are tried again by the study."""
    ended: list[int] = []

    def end(event: Event) -> None:
        if isinstance(event, TrialProgress) and not ended:
            ended.extend(workers_of(tmp_path))
            os.kill(ended[0], sign)

    with SlurmWorkers(SETUP, 1, LOCAL, tmp_path) as engine:
        found = endings(engine, [job(0, budget_flops=2e9), job(1)], end)
        assert not is_running(ended[0])
        assert len(workers_of(tmp_path)) == 2
    assert {number: event.worker_died for number, event in found.items()} == {0: died, 1: False}
    assert [found[n].result.status for n in range(2)] == ["failed" if died else "ok", "ok"]
    if died:
        assert found[0].result.error == "its worker on the cluster showed no sign of life for 4 s"
    assert list(tmp_path.glob(".einsearch-slurm/*")) == []


STUDY = """
import sys
from pathlib import Path
from einsearch_cli.search.engines.slurm import SlurmWorkers
from tests.clusters.studies import results
from tests.search.engine_contract import SETUP, job

jobs = [(job(0, budget_flops=1e15),)]
with SlurmWorkers(SETUP, 1, {"executor": "local", "lease": "2s"}, Path(sys.argv[1])) as engine:
    engine.run(lambda: jobs.pop() if jobs else (), lambda _: None)
"""


def test_tasks_end_by_themselves_when_the_study_is_killed(tmp_path: Path) -> None:
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path)], start_new_session=True)
    try:
        assert comes_true(lambda: workers_of(tmp_path) != [], within_s=60)
    finally:
        study.kill()
        study.wait()
    assert comes_true(lambda: not any(map(is_running, workers_of(tmp_path))), within_s=20)


def test_tasks_that_end_before_they_begin_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "einsearch_cli.py").write_text("raise RuntimeError('another einsearch')\n")
    with (
        SlurmWorkers(SETUP, 1, LOCAL, tmp_path) as engine,
        pytest.raises(StudyError, match="3 tasks of the cluster ended"),
    ):
        endings(engine, [job(0)])


def test_a_study_ends_with_the_results_of_the_local_engine(tmp_path: Path, here: list[dict[str, Any]]) -> None:
    options = [word for key, value in LOCAL.items() for word in ("--engine-option", f"{key}={value}")]
    assert (
        results(tmp_path / "slurm", "--engine", "slurm", "--workers", "2", *options, "--engine-option", "cores=2")
        == here
    )


def test_runs_trained_one_by_one_have_the_results_of_packs(tmp_path: Path, here: list[dict[str, Any]]) -> None:
    assert results(tmp_path / "alone", "--workers", "2", "--pack", "1") == here


WORDS = ("--engine", "slurm", "--workers", "2", "--engine-option", "executor=local")


def test_results_handed_in_after_the_driver_was_killed_are_neither_lost_nor_trained_again(
    tmp_path: Path, here: list[dict[str, Any]]
) -> None:
    """The first driver dies when its workers have started; the second one takes the results that they hand in."""
    folder = tmp_path / "study"
    with start(folder, *WORDS) as study:  # its pipes are closed, which the tasks have too
        try:
            assert comes_true(lambda: bool(list(folder.glob(".einsearch-slurm/*/taken/*.json"))), within_s=60)
        finally:
            study.kill()
    before = finished_keys(folder)
    assert comes_true(lambda: len(handed_in(folder)) >= 2, within_s=60)
    seconds = {document["result"]["elapsed_s"] for document in handed_in(folder)}
    assert results(folder, *WORDS) == here
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert seconds <= {event["seconds"] for event in events if event["event"] == "run_finished"}
    keys = finished_keys(folder)
    assert len(keys) == len(set(keys)) == len(here) > len(before)
    assert list(folder.glob(".einsearch-slurm/*")) == []


def handed_in(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob(".einsearch-slurm/*/said/[!.]*.json")]
    return [document for document in found if "result" in document]


def test_ctrl_c_ends_a_study_and_its_tasks_print_nothing(tmp_path: Path) -> None:
    """In a terminal, Ctrl-C reaches all processes that were started there."""
    folder = tmp_path / "study"
    study = start(folder, *WORDS, own_session=True)
    try:
        assert comes_true(lambda: workers_of(folder) != [], within_s=60)
        workers = workers_of(folder)
        os.killpg(study.pid, signal.SIGINT)
        printed, said = study.communicate(timeout=30)
    finally:
        study.kill()
    assert (study.returncode, printed) == (130, "")
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    assert said.splitlines()[-1].endswith("run the same command again to go on"), said
    assert not any(map(is_running, workers))
