"""Optimizers by name on the command line: Muon, and one of a plug-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.training.full.checkpoint import checkpoints_of, read_checkpoint

Einsearch = Callable[..., Any]

TRAIN = """\
model: {width: 32, layers: 1, heads: 2, context: 16, structure: "btt:r=2"}
data: {text: corpus.txt, tokenizer: characters}
batch: 4
steps: 8
validation: {points: 2, blocks: 2}
"""

STUDY = """\
task: teacher
task_settings: {teacher_width: 16, pool_size: 512, validation_size: 64, batch_size: 32, depth: 3}
structures: [monarch]
widths: [16]
seeds: 1
budget_flops: 5e6
halving: {rungs: 1}
rates: fixed
controls: false
confirm: 0
optimizer: {name: NAME, validations: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("".join(f"{number} times seven is {7 * number}\n" for number in range(300)))
    (tmp_path / "run.yaml").write_text(TRAIN)
    return tmp_path


PLUGIN = """\
import torch
from einsearch_cli.training.optimizers import register
from einsearch_cli.training.optimizers.adamw import AdamW


class Momentum(AdamW):
    name = "momentum"
    state_names = ("momentum_buffer",)
    least_state_bytes = 4

    def make(self, groups, settings):
        return torch.optim.SGD(groups, momentum=settings.beta1)


register(Momentum())
"""


def test_muon_trains_a_transformer(einsearch: Einsearch, folder: Path) -> None:
    found = einsearch("train", folder / "run.yaml", "--set", "optimizer.name=muon", "--out", folder / "runs")
    assert found.code == 0, found.err
    checkpoint = read_checkpoint(checkpoints_of(folder / "runs")[-1])
    assert checkpoint.state.spec["optimizer"]["name"] == "muon"
    assert "momentum_buffer:blocks.0.ffn.up.factors.A" in checkpoint.optimizer
    assert "exp_avg:embedding.weight" in checkpoint.optimizer
    other = einsearch("train", folder / "run.yaml", "--set", "steps=9", "--out", folder / "runs")
    assert other.code == 2
    assert 'optimizer.name was "muon"' in other.err


def test_muon_ranks_structures(einsearch: Einsearch, folder: Path) -> None:
    losses = {}
    for name in ("adamw", "muon"):
        (folder / "study.yaml").write_text(STUDY.replace("NAME", name))
        found = einsearch("rank", folder / "study.yaml", "--out", folder / name, "--workers", "1")
        assert found.code == 0, found.err
        trials = json.loads((folder / name / "results.json").read_text())["results"]
        assert [trial["status"] for trial in trials] == ["ok", "ok"]
        losses[name] = [trial["loss"] for trial in trials]
    assert losses["muon"] != losses["adamw"]


@pytest.mark.usefixtures("registers")
def test_an_optimizer_of_a_plug_in_trains_and_ranks(einsearch: Einsearch, folder: Path) -> None:
    plugin = folder / "momentum.py"
    plugin.write_text(PLUGIN)
    train = ("train", folder / "run.yaml", "--set", "optimizer.name=momentum", "--out", folder / "runs")
    found = einsearch("--plugin", plugin, *train)
    assert found.code == 0, found.err
    kinds = {name.partition(":")[0] for name in read_checkpoint(checkpoints_of(folder / "runs")[-1]).optimizer}
    assert kinds == {"momentum_buffer", "random"}
    (folder / "study.yaml").write_text(STUDY.replace("NAME", "momentum"))
    found = einsearch("--plugin", plugin, "rank", folder / "study.yaml", "--out", folder / "study", "--workers", "1")
    assert found.code == 0, found.err


def test_an_unknown_optimizer_is_named(einsearch: Einsearch, folder: Path) -> None:
    found = einsearch("train", folder / "run.yaml", "--set", "optimizer.name=moun", "--out", folder / "runs")
    assert found.code == 2
    assert "optimizer.name" in found.err
    assert "the optimizers are adamw, muon" in found.err
    assert "muon" in found.err.partition("try:")[2]
    assert not (folder / "runs").exists()
