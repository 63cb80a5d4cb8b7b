"""The coordinate check, compared with a network that is built and trained separately."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from einsearch_cli.models import StructuredNetwork
from einsearch_cli.training.proxy.coordinates import STEPS, coordinates
from einsearch_cli.training.proxy.width_trends import width_trends
from tests.training.proxy.tasks import run_of, small_teacher


def test_the_start_is_what_the_untrained_network_gives(tmp_path: Path) -> None:
    run = run_of(small_teacher(tmp_path), "low-rank", width=32)
    found = {item.layer: item for item in coordinates(run)}
    torch.manual_seed(run.seed)
    model = run.task.build_model(run.structure, run.width)
    hidden = run.task.validation()[0].inputs
    for number, layer in enumerate(model.layers):
        hidden = layer(hidden)
        assert found[f"layers.{number}"].start == pytest.approx(hidden.square().mean().sqrt().item(), rel=1e-5)
        hidden = hidden.relu()
    assert found["head"].start == 0.0
    assert all(len(item.changes) == len(STEPS) and 0 < item.changes[-1] < 100 for item in found.values())
    moved = {layer for layer, item in found.items() if item.changes[0] > 0}
    assert moved == {"head"}, "the head starts at zero, so the first step moves nothing below it"


def slopes(folder: Path) -> dict[str, float | None]:
    task = small_teacher(folder)
    found = [
        item for width in (32, 64, 128) for item in coordinates(run_of(task, "dense", width=width, learning_rate=1e-3))
    ]
    return {trend.layer: trend.change_slope for trend in width_trends(found)}


def test_the_change_does_not_grow_with_width_under_mup(tmp_path: Path) -> None:
    assert all(slope is not None and abs(slope) < 0.4 for layer, slope in slopes(tmp_path).items() if layer != "head")


def test_rates_that_do_not_follow_the_width_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(network: StructuredNetwork, _: int) -> dict[str, float]:
        return {name: 1.0 for name, _ in network.named_parameters()}

    monkeypatch.setattr(StructuredNetwork, "learning_rate_multipliers", equal)
    found = slopes(tmp_path)
    assert max(slope or 0.0 for slope in found.values()) > 0.7


def test_one_width_has_no_slope(tmp_path: Path) -> None:
    assert width_trends(coordinates(run_of(small_teacher(tmp_path), width=32))) == ()
