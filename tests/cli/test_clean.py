from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from einsearch_cli.search.run_folders import CHECKPOINTS, run_folder
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

TRIAL = Trial(parse_structure("monarch"), 16, 0, 0, 1e9)


def test_checkpoints_of_finished_runs_are_removed_and_no_others(einsearch, tmp_path: Path) -> None:
    trials = [replace(TRIAL, seed=seed) for seed in range(4)]
    with StudyStore(tmp_path, "f") as store:
        store.add(trials)
        results = (
            TrialResult(trials[0], "ok", 0.5, 1, 1e9, 2e9, 10, 0.1, ()),
            failed_result(trials[1], "diverged", "nan", 0.1),
            failed_result(trials[2], "failed", "boom", 0.1),
        )
        for result in results:
            number, _ = store.take() or (0, TRIAL)
            store.finish(number, result)
    for trial in trials:
        folder = run_folder(tmp_path, trial) / "step-00000001"
        folder.mkdir(parents=True)
        (folder / "state.json").write_bytes(bytes(500_000))
    tried = einsearch("clean", tmp_path, "--dry-run")
    said = "the checkpoints of 2 finished runs, 1.0 MB; those of 2 runs without a result stay\n"
    assert (tried.code, tried.out) == (0, f"would remove {said}")
    assert len(list((tmp_path / CHECKPOINTS).iterdir())) == 4
    assert einsearch("clean", tmp_path).out == f"removed {said}"
    assert {path.name for path in (tmp_path / CHECKPOINTS).iterdir()} == {
        run_folder(tmp_path, trial).name for trial in trials[2:]
    }
    with StudyStore(tmp_path, "f") as store:
        assert len(store.results()) == 3


def test_a_study_that_runs_is_left_alone(einsearch, tmp_path: Path) -> None:
    with StudyStore(tmp_path, "f"):
        found = einsearch("clean", tmp_path)
    assert found.code == 2
    assert "is in use by process" in found.err


def test_a_folder_without_a_study_is_refused_and_stays_empty(einsearch, tmp_path: Path) -> None:
    found = einsearch("clean", tmp_path)
    assert found.code == 2
    assert "is not the folder of a study: it has no study.db" in found.err
    assert not list(tmp_path.iterdir())
