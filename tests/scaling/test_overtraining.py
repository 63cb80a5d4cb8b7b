"""Overtraining curves as data."""

from __future__ import annotations

import math

import pytest

from einsearch_cli.scaling.observations import Observation
from einsearch_cli.scaling.overtraining import overtraining


def observed(width: int, seed: int, rung: int, stage: str = "main", tokens: float | None = None) -> Observation:
    loss = 4.0 ** (-rung / 4) * math.exp(0.3 * math.log(width / 100) ** 2 + 0.01 * (-1) ** seed)
    compute = 1e9 * 4.0**rung
    return Observation(
        structure="a", rung=rung, width=width, seed=seed, loss=loss, budget=compute, compute=compute, total=compute,
        params=width * width, stage=stage, tokens=tokens,
    )  # fmt: skip


def test_an_overtraining_curve_is_one_width_at_several_budgets() -> None:
    runs = [observed(100, seed, rung, tokens=2e5 * 4.0**rung) for rung in (1, 0) for seed in range(2)]
    runs += [observed(200, 0, 0, tokens=1e5), observed(300, 0, 0), observed(300, 0, 1)]
    (curve,) = overtraining(runs)
    assert (curve.structure, curve.width) == ("a", 100)
    assert [at for at, _ in curve.points] == pytest.approx([20, 80])
    assert [loss for _, loss in curve.points] == pytest.approx([1.0, 4**-0.25])
