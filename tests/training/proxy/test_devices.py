"""Runs on CUDA devices compared with the same runs on the CPU, and in other precisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from einsearch_cli.errors import DeviceError
from einsearch_cli.tasks import open_task
from einsearch_cli.training import RunOutcome, train
from einsearch_cli.training.devices import choose_devices
from einsearch_cli.training.proxy.trainer import PackTrainer, SingleTrainer
from tests.training.proxy.tasks import run_of, small_teacher
from tests.training.proxy.test_packs import SMALL_TEXT, STRUCTURES, several, trained

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = pytest.mark.usefixtures("one_thread")


@needs_cuda
@pytest.mark.parametrize("task", ["teacher", "text"])
@pytest.mark.parametrize("structure", [*STRUCTURES, "dense-moe:experts=4,top=2"])
def test_a_gpu_trains_as_the_cpu_does(tmp_path: Path, task: str, structure: str) -> None:
    """The first steps of runs with the same start and data differ by rounding, which grows with the steps."""
    opened = small_teacher(tmp_path) if task == "teacher" else open_task("text", SMALL_TEXT)
    runs = several(opened, structure)
    if "moe" in structure:
        pairs = [(SingleTrainer(run), SingleTrainer(replace(run, device="cuda"))) for run in runs]
    else:
        pairs = [(PackTrainer(runs), PackTrainer([replace(run, device="cuda") for run in runs]))]
    for here, there in pairs:
        for _ in range(8):
            assert there.step() == pytest.approx(here.step(), rel=1e-3)
        assert there.validate(0) == pytest.approx(here.validate(0), rel=1e-3)


@needs_cuda
def test_a_run_of_a_pack_on_a_gpu_ends_near_the_run_alone(tmp_path: Path) -> None:
    runs = [replace(run, device="cuda") for run in several(small_teacher(tmp_path), "monarch")]
    for together, run in zip(trained(runs), runs, strict=True):
        assert isinstance(together, RunOutcome)
        assert together.loss == pytest.approx(train(run).loss, rel=0.02)


@needs_cuda
def test_a_run_goes_on_from_a_state_of_another_device(tmp_path: Path) -> None:
    run = run_of(small_teacher(tmp_path), "monarch", width=32, budget_flops=3e8)
    here, there = PackTrainer([run]), PackTrainer([replace(run, device="cuda")])
    for _ in range(5):
        here.step()
    there.load_run_states([here.run_state(0)])
    assert there.step() == pytest.approx(here.step(), rel=1e-3)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_products_in_bfloat16_train_nearly_as_well(tmp_path: Path, structure: str) -> None:
    """One run and a pack are tested, by a program and by the layers themselves: autocast is in all of them."""
    runs = [replace(run, precision="bfloat16") for run in several(small_teacher(tmp_path), structure)]
    together, alone = PackTrainer(runs), SingleTrainer(runs[0])
    exact = PackTrainer([replace(run, precision="float32") for run in runs])
    for near in (0.01, 0.1, 0.1):
        losses = exact.step()
        assert together.step() == pytest.approx(losses, rel=near)
        assert alone.step() == pytest.approx(losses[:1], rel=near)
    assert together.validate(0) != exact.validate(0)
    assert together.validate(0) == pytest.approx(exact.validate(0), rel=0.1)
    assert alone.validate(0) == pytest.approx(exact.validate(0), rel=0.1)


def test_devices_of_the_words_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices("auto") == choose_devices("cuda") == ("cuda:0", "cuda:1")
    assert choose_devices("cuda:1") == ("cuda:1",)
    assert choose_devices("cuda:1, cuda:0,cuda:1") == ("cuda:1", "cuda:0")
    assert choose_devices("cpu") == ("cpu",)
    with pytest.raises(DeviceError, match=r"this machine has 2 CUDA devices\ntry: use one of: cuda:0, cuda:1"):
        choose_devices("cuda:0,cuda:2")
    with pytest.raises(DeviceError, match="one study trains on the CPU or on CUDA devices"):
        choose_devices("cpu,cuda:0")
    with pytest.raises(DeviceError, match="'gpu' is not a device"):
        choose_devices("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices("auto") == ("cpu",)
    with pytest.raises(DeviceError, match="device 'cuda': "):
        choose_devices("cuda")
