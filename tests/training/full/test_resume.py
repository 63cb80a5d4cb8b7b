"""An interrupted run ends with the same bits as an undisturbed one."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from einsearch_cli.training.full import train_full
from einsearch_cli.training.full.checkpoint import checkpoints_of
from tests.training.full.runs import CPU, KINDS, Told, assert_same_run, run_tiny, tiny_data, tiny_spec

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind that were killed twice by SIGKILL at random moments."""
    folder = tmp_path_factory.mktemp("killed")
    seed = str(random.randrange(10**6))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.full.killed", str(folder), seed]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_steps(killed: Path, tmp_path: Path, kind: str) -> None:
    assert not (killed / kind / "result.json").exists()
    resumed = run_tiny(killed / kind, **KINDS[kind])
    undisturbed = run_tiny(tmp_path, **KINDS[kind])
    assert_same_run(killed / kind, tmp_path)
    assert resumed.loss == undisturbed.loss
    assert resumed.flops == undisturbed.flops


@pytest.mark.parametrize("step", [2, 5, 6, 7], ids=lambda step: f"step {step}")
def test_interrupted_by_ctrl_c(tmp_path: Path, step: int) -> None:
    """Interrupted in the guided part, at its end, and after it; Ctrl-C leaves a checkpoint of that very step."""
    guided = KINDS["self-guided"]
    told = Told(stop_at=step)
    with pytest.raises(KeyboardInterrupt):
        train_full(tiny_spec(**guided), tiny_data(), tmp_path / "stopped", CPU, told)
    assert checkpoints_of(tmp_path / "stopped")[-1].name == f"step-{step:08d}"
    again = Told()
    train_full(tiny_spec(**guided), tiny_data(), tmp_path / "stopped", CPU, again)
    assert f"step {step} of 12" in again.said[0]
    run_tiny(tmp_path / "whole", **guided)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run_tiny(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run_tiny(tmp_path) == first
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_killed_between_last_checkpoint_and_result(tmp_path: Path) -> None:
    first = run_tiny(tmp_path)
    (tmp_path / "result.json").unlink()
    assert run_tiny(tmp_path).loss == first.loss
