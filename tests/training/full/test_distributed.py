"""Two processes, DDP and FSDP2 over gloo, train as one does."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from einsearch_cli.training.full import read_metrics, train_full
from einsearch_cli.training.full.checkpoint import checkpoints_of, read_checkpoint
from tests.training.full.runs import CPU, Told, run_tiny, tiny_data, tiny_spec
from tests.training.full.two_processes import TOGETHER

ROOT = Path(__file__).parents[3]
RUNS = [f"{name}-{parallel}" for name in TOGETHER for parallel in ("ddp", "fsdp")]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.full.two_processes", str(folder)],
            cwd=ROOT,
            env={**os.environ, **common, "PYTHONPATH": str(ROOT), "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ended = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(ended)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for name, changes in TOGETHER.items():
        run_tiny(folder / name, **changes)
    return folder


@pytest.mark.parametrize("run", RUNS)
def test_the_losses_of_twenty_steps(together: Path, alone: Path, run: str) -> None:
    lines, expected = read_metrics(together / run), read_metrics(alone / run.rpartition("-")[0])
    assert len(lines) == len(expected) == 20
    for line, plain in zip(lines, expected, strict=True):
        for key in ("loss", "validation_loss"):
            assert line.get(key) == pytest.approx(plain.get(key), abs=1e-5), line["step"]
        assert line["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-4)
        for key in ("step", "tokens", "flops", "total_flops", "learning_rate", "guide_weight"):
            assert line[key] == plain[key]
    assert expected[-1]["loss"] < expected[0]["loss"] - 0.2


@pytest.mark.parametrize("run", RUNS)
def test_checkpoints_hold_whole_tensors(together: Path, alone: Path, run: str) -> None:
    mine = read_checkpoint(checkpoints_of(together / run)[-1])
    expected = read_checkpoint(checkpoints_of(alone / run.rpartition("-")[0])[-1])
    for found, plain in ((mine.model, expected.model), (mine.optimizer, expected.optimizer)):
        assert {name: value.shape for name, value in found.items()} == {
            name: value.shape for name, value in plain.items()
        }


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_goes_on_with_a_checkpoint_of_two(
    tmp_path: Path, together: Path, alone: Path, parallel: str
) -> None:
    run = Path(shutil.copytree(together / f"plain-{parallel}", tmp_path / "run"))
    (run / "result.json").unlink()
    shutil.rmtree(checkpoints_of(run)[-1])
    told = Told()
    train_full(tiny_spec(**TOGETHER["plain"]), tiny_data(), run, CPU, told)
    assert "step 18 of 20" in told.said[0]
    assert read_metrics(run)[-1]["loss"] == pytest.approx(read_metrics(alone / "plain")[-1]["loss"], abs=1e-5)
