"""Checkpoints: what is written, what survives, and what is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock

from einsearch_cli.data.tokens import held_out_batches
from einsearch_cli.errors import CheckpointError, Exit, OutputError
from einsearch_cli.guided import SelfGuidedLinear, guide_weight
from einsearch_cli.training.full import load_model, read_metrics, train_full
from einsearch_cli.training.full.checkpoint import RunState, checkpoints_of, read_checkpoint, save_checkpoint
from tests.training.full.runs import CPU, Told, assert_same_run, run_tiny, tiny_data, tiny_spec

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_tiny(folder)
    return folder


def state(step: int) -> RunState:
    return RunState(
        step=step,
        flops=0,
        elapsed_s=0.0,
        guided=False,
        guide_weight=0.0,
        spec={},
        config={},
        tokenizer=None,
        data_digest="",
    )


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped at step 8, by Ctrl-C: checkpoints of steps 6 and 8."""
    folder = tmp_path_factory.mktemp("stopped")
    told = Told(stop_at=8)
    with pytest.raises(KeyboardInterrupt):
        train_full(tiny_spec(), tiny_data(), folder, CPU, told)
    assert [path.name for path in checkpoints_of(folder)] == ["step-00000006", "step-00000008"]
    return folder


@pytest.fixture
def run(tmp_path: Path, stopped_once: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def one_bit_flipped(data: bytes) -> bytes:
    middle = len(data) * 2 // 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_two_checkpoints_are_kept(finished: Path) -> None:
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == ["step-00000009", "step-00000012"]
    files = sorted(path.name for path in (finished / "checkpoints" / "step-00000012").iterdir())
    assert files == ["model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("damage", [truncated, one_bit_flipped])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(
    run: Path, file: str, damage: Callable[[bytes], bytes], finished: Path
) -> None:
    path = run / "checkpoints" / "step-00000008" / file
    path.write_bytes(damage(path.read_bytes()))
    told = Told()
    train_full(tiny_spec(), tiny_data(), run, CPU, told)
    assert told.said[0].startswith(f"warning: checkpoint {path.parent} is damaged: {file}")
    assert "step 6 of 12" in told.said[1]
    assert_same_run(run, finished)


def test_no_whole_checkpoint_is_a_named_error(run: Path) -> None:
    for path in checkpoints_of(run):
        (path / "model.safetensors").write_bytes(b"")
    told = Told()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: .*step-00000008 is damaged") as caught:
        train_full(tiny_spec(), tiny_data(), run, CPU, told)
    assert len(told.said) == 2
    assert caught.value.remedy == f"restore one from a backup, or remove {run / 'checkpoints'} to start over"


def test_a_draft_of_a_killed_process_is_not_a_checkpoint(run: Path) -> None:
    (run / "checkpoints" / "step-00000008").rename(run / "checkpoints" / ".draft-step-00000009-00")
    told = Told()
    train_full(tiny_spec(), tiny_data(), run, CPU, told)
    assert "step 6 of 12" in told.said[0]
    assert not list((run / "checkpoints").glob(".draft*"))


def test_changed_settings_are_named(run: Path, finished: Path) -> None:
    changed = tiny_spec(optimizer={"learning_rate": 0.02}, batch=16)
    for folder in (run, finished):
        with pytest.raises(CheckpointError) as caught:
            train_full(changed, tiny_data(), folder, CPU)
        assert caught.value.problem == (
            f"{folder} holds a run with other settings: batch was 8 and is 16; "
            "optimizer.learning_rate was 0.01 and is 0.02"
        )
        assert caught.value.exit_code == Exit.BAD_INPUT


def test_what_does_not_decide_the_weights_may_change(run: Path, finished: Path) -> None:
    train_full(tiny_spec(checkpoint={"every": 1}, validation={"points": 3, "blocks": 5}), tiny_data(), run, CPU)
    assert_same_run(run, finished)


def test_changed_data_are_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a run on other data: the tokens had SHA-256 digest-0…, now"):
        train_full(tiny_spec(), tiny_data(seed=1), run, CPU)


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    pickle = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(1)}, pickle)
    for path in (pickle, tmp_path):
        with pytest.raises(CheckpointError, match=rf"{pickle} is a pickle: reading one runs whatever code is in it"):
            load_model(path)


def test_a_folder_without_checkpoint_names_the_runs_inside(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(CheckpointError, match="has no checkpoint: no checkpoints/ in it"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match=f"has no checkpoint: its runs are .*{finished.name}"):
        load_model(finished.parent)


def test_the_model_of_a_run(finished: Path) -> None:
    model, tokenizer = load_model(finished)
    assert tokenizer is not None
    assert tokenizer.vocabulary == 256
    assert not model.training
    saved = read_checkpoint(checkpoints_of(finished)[-1]).model
    for name, value in model.named_parameters():
        assert torch.equal(value, saved[name]), name


def test_a_model_is_read_without_the_optimizer_and_from_the_checkpoint_before_a_damaged_one(run: Path) -> None:
    last = run / "checkpoints" / "step-00000008"
    (last / "optimizer.safetensors").write_bytes(b"")
    said: list[str] = []
    load_model(run, warn=said.append)
    assert not said
    (last / "model.safetensors").write_bytes(b"")
    load_model(run, warn=said.append)
    assert said[0].startswith(f"warning: checkpoint {last} is damaged: model.safetensors is not what was written")


def test_the_model_of_a_guided_phase_has_its_guides(tmp_path: Path) -> None:
    """The run was stopped after 4 of 6 guided steps; the guides have their weight of the fifth."""
    told = Told(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        train_full(tiny_spec(guidance={"mode": "full"}), tiny_data(), tmp_path, CPU, told)
    model, _ = load_model(tmp_path)
    guided = [module for module in model.modules() if isinstance(module, SelfGuidedLinear)]
    assert len(guided) == 4
    assert guided[0].mix.item() == pytest.approx(guide_weight(4, 6))
    held_out = held_out_batches(tiny_data().held_out, block=16, batch=8, blocks=5)
    with torch.no_grad():
        losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in held_out]
    validated = [line["validation_loss"] for line in read_metrics(tmp_path) if "validation_loss" in line]
    assert sum(losses) / len(losses) == pytest.approx(validated[-1], rel=1e-5)


def test_a_guide_that_is_over_leaves_memory_and_checkpoint(tmp_path: Path, finished: Path) -> None:
    run_tiny(tmp_path, guidance={"mode": "full", "ratio": 0.25})
    guided = read_checkpoint(checkpoints_of(tmp_path)[-1])
    plain = read_checkpoint(checkpoints_of(finished)[-1])
    assert guided.model.keys() == plain.model.keys()
    assert guided.optimizer.keys() == plain.optimizer.keys()


def test_two_processes_cannot_have_one_run(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(OutputError, match="is in use: one process works on a run"):
        run_tiny(tmp_path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from einsearch_cli.errors import OutputError
from einsearch_cli.training.full import Silent, train_full
from tests.training.full.runs import CPU, tiny_data, tiny_spec

class Filling(Silent):
    def on_step(self, metrics, steps):
        if metrics.step == 4:  # from here on the system refuses to write files beyond 40,000 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

try:
    train_full(tiny_spec(), tiny_data(), Path(sys.argv[1]), CPU, Filling())
except OutputError as error:
    print(error.problem)
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, finished: Path) -> None:
    """The system itself refuses to write, as a full disk does; the run continues when there is room."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot save the checkpoint of step 6" in done.stdout
    assert "checkpoints kept: step-00000003" in done.stdout
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    run_tiny(tmp_path)
    assert_same_run(tmp_path, finished)


def test_saving_over_a_damaged_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(5), {"a": torch.zeros(3)}, {})
    (path / "model.safetensors").write_bytes(b"x")
    save_checkpoint(tmp_path, state(5), {"a": torch.ones(3)}, {})
    assert torch.equal(read_checkpoint(path).model["a"], torch.ones(3))


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and both folders are forced to disk with all their bytes before a crash could find them."""
    synced: dict[int, int] = {}
    renamed: list[set[int]] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        real_sync(handle)
        known = os.fstat(handle)
        synced[known.st_ino] = known.st_size

    def replace(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            renamed.append(set(synced))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    tensors = {"weight": torch.randn(100, 100)}
    folder = save_checkpoint(tmp_path, state(1), tensors, tensors)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["model.safetensors", "optimizer.safetensors", "state.json"]
    for path in files:
        assert synced.get(path.stat().st_ino) == path.stat().st_size, path.name
    [before_the_name] = renamed
    assert before_the_name >= {path.stat().st_ino for path in (*files, folder)}
    assert folder.parent.stat().st_ino in synced
