"""The engine of a Ray cluster: two nodes on loopback, of which one is lost, and the loss of the head."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.errors import StudyError
from einsearch_cli.search.engines.ray import RayTasks
from einsearch_cli.search.engines.ray.states import newest_state
from einsearch_cli.search.job import Job, TrialProgress, TrialSetup, run_trial
from einsearch_cli.search.run_folders import run_folder
from einsearch_cli.search.shipping import Shipment, pack_up
from tests.clusters.conftest import RayCluster, ray_cluster
from tests.clusters.studies import finished, finished_keys, results, start
from tests.search.engine_contract import SETUP, EngineContract, Event, finished as ended, job
from tests.search.test_local_engine import comes_true

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A cluster whose nodes and tests share one cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        with ray_cluster(patch) as found:
            yield found


class TestRayTasks(EngineContract):
    kind = RayTasks

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _on_two_nodes(cls, cluster: RayCluster) -> None:
        cls.options = {"address": cluster.address}

    def test_it_has_as_many_workers_as_the_cluster_has_cores(self) -> None:
        assert RayTasks(SETUP, None, self.options).workers == 2


def children_named(word: str) -> list[str]:
    """Processes of this machine with a word in their title."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if word in line and " Z" not in line]


def kill_trees(roots: list[int]) -> list[int]:
    """Kill these processes and all their descendants, as switching off a machine does."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    doomed = list(roots)
    for process in doomed:  # the tree grows meanwhile
        doomed += [child for child, parent in parents.items() if parent == process]
    for process in doomed:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return doomed


def test_leaving_ends_tasks_on_all_nodes(cluster: RayCluster) -> None:
    def stop(_: Event) -> None:
        assert len(children_named("ray::train_pack")) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RayTasks(SETUP, 1, {"address": cluster.address}) as engine:
        ended(engine, [job(0, budget_flops=1e15)], stop)
    assert comes_true(lambda: not children_named("ray::train_pack"), within_s=10)


def test_a_wrong_token_is_refused(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(StudyError, match="cannot be reached") as caught:
        RayTasks(SETUP, None, {"address": cluster.address})
    assert "RAY_AUTH_TOKEN" in caught.value.remedy


def test_a_node_without_the_files_of_the_study_fetches_them(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files that seem to have changed are not those of the study, so its plug-in and its labels are fetched."""

    def pack_up_elsewhere(setup: TrialSetup) -> Shipment:
        found = pack_up(setup)
        files = {name: tuple(replace(f, changed_ns=1) for f in getattr(found, name)) for name in ("plugins", "data")}
        return replace(found, **files)

    monkeypatch.setattr("einsearch_cli.search.engines.ray.pack_up", pack_up_elsewhere)
    with RayTasks(SETUP, 2, {"address": cluster.address}) as engine:
        found = ended(engine, [job(0), job(1)])
    here = run_trial(job(0), SETUP, lambda _: None)
    assert [result.status for result in found.values()] == ["ok", "ok"]
    assert found[0].loss == here.loss
    shipped = tmp_path_factory.getbasetemp() / "cache" / "einsearch" / "shipped"
    assert sorted(path.suffix for path in shipped.rglob("*.*") if path.is_file()) == [".lock", ".npz", ".py"]


def test_a_study_ends_with_the_results_of_the_local_engine(
    cluster: RayCluster, tmp_path: Path, here: list[dict[str, Any]]
) -> None:
    words = ("--engine", "ray", "--engine-option", f"address={cluster.address}")
    assert results(tmp_path / "ray", *words) == here


def test_runs_of_a_lost_node_go_on_elsewhere_from_their_last_states(cluster: RayCluster, tmp_path: Path) -> None:
    setup, jobs = replace(SETUP, folder=str(tmp_path), checkpoint_s=0.5), [job(n, budget_flops=1.5e9) for n in range(2)]
    states = {n: run_folder(tmp_path, jobs[n].trial) for n in range(2)}
    steps: dict[int, list[int]] = {n: [] for n in range(4)}
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, TrialProgress):
            steps[event.number].append(event.step)
        if not killed and all(map(newest_state, states.values())):
            killed.extend(kill_trees(cluster.other))

    with RayTasks(setup, 2, {"address": cluster.address}) as engine:
        found = ended(engine, [*jobs, job(2)], kill)
        [lost] = [number for number, result in found.items() if result.status != "ok"]
        assert found[lost].error == "the node died that it ran on"
        assert sorted(found) == [0, 1, 2]
        last = newest_state(states[lost])
        assert last is not None
        again = ended(engine, [Job(3, jobs[lost].trial)], kill)[3]
    assert steps[3][0] > int(last.name.removeprefix("step-")) > 0
    assert steps[lost][0] == 1
    alone = run_trial(jobs[lost], SETUP, lambda _: None)
    assert (again.loss, again.curve) == (alone.loss, alone.curve), "to the last bit"


def test_a_study_whose_head_is_lost_says_so_and_goes_on_from_what_it_has(
    cluster: RayCluster, tmp_path: Path, here: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "ray"
    study = start(folder, "--engine", "ray", "--engine-option", f"address={cluster.address}")
    try:
        assert comes_true(lambda: finished(folder) >= 1, within_s=90)
        kill_trees(cluster.head)
        _, errors = study.communicate(timeout=60)
    finally:
        study.kill()
    assert study.returncode == 2, errors
    assert f"the Ray cluster at {cluster.address} is lost" in errors
    assert "start it again and run the same command: finished runs are kept" in " ".join(errors.split())
    assert 1 <= finished(folder) < len(here)
    assert results(folder, "--engine", "ray", "--workers", "2") == here
    keys = finished_keys(folder)
    assert len(keys) == len(set(keys)) == len(here)
