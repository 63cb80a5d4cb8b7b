"""Engines meet their contract: those of this package, and one of a plug-in."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.search.engines import Engine, find_engine, register
from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.job import Job, TrialProgress, TrialSetup, run_trial
from tests.search.engine_contract import SETUP, SMALL, EngineContract, job
from tests.search.in_process import InProcess


class TestLocalProcesses(EngineContract):
    kind = LocalProcesses


class TestInProcess(EngineContract):
    kind = InProcess


def test_the_engine_of_the_docs_is_the_one_that_is_tested() -> None:
    root = Path(__file__).parents[2]
    assert (root / "tests/search/in_process.py").read_text() in (root / "docs/guide/plugins.md").read_text()


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_diverges_after_its_first_step_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reports: list[TrialProgress] = []
    result = run_trial(job(0), TrialSetup("teacher", SMALL, {"learning_rate": 1e30}), reports.append)
    assert (result.status, result.loss) == ("diverged", None)
    assert "loss became" in str(result.error)
    assert [(report.number, report.step) for report in reports] == [(0, 1)]


def test_an_unknown_name_is_refused_with_all_names() -> None:
    with pytest.raises(SpecError, match="no engine is named 'locla': the engines are local, ray, slurm") as caught:
        find_engine("locla")
    assert caught.value.remedy == "use local"


def test_a_name_is_given_once() -> None:
    class Other(LocalProcesses):
        pass

    with pytest.raises(ValueError, match="two engines are named 'local'"):
        register(Other)


def test_setups_and_jobs_can_be_sent_anywhere() -> None:
    for sent in (SETUP, job(3)):
        assert pickle.loads(pickle.dumps(sent)) == sent  # noqa: S301
    assert Job.from_json(json.loads(json.dumps(job(3).to_json()))) == job(3)
    document = json.loads(json.dumps(asdict(SETUP)))
    assert TrialSetup(**document) == SETUP


def test_torch_is_loaded_once_for_all_local_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    engines: list[Engine] = [LocalProcesses(SETUP, workers) for workers in (1, 4, 6, None)]
    assert [engine.workers for engine in engines] == [1, 4, 6, 4]
    assert [engine.start_up_s(3.0) for engine in engines] == [3.0] * 4
