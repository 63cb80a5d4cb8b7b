from collections.abc import Callable

import pytest

from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Stage, Status, Trial, TrialResult

MakeRun = Callable[..., TrialResult]


@pytest.fixture
def run() -> MakeRun:
    """A finished run with given numbers: `run("dense", loss=0.5, flops=1e9)`."""

    def make(
        text: str,
        loss: float | None = 1.0,
        *,
        rung: int = 0,
        flops: float = 1e9,
        width: int = 64,
        seed: int = 0,
        status: Status = "ok",
        stage: Stage = "main",
    ) -> TrialResult:
        trial = Trial(parse_structure(text), width, seed, rung, flops, stage=stage)
        error = None if status == "ok" else "loss became NaN"
        return TrialResult(trial, status, loss, 100 * width, flops, 1.1 * flops, 10, 2.0, ((flops, 1.0),), error)

    return make


@pytest.fixture
def cells(run: MakeRun) -> Callable[..., list[TrialResult]]:
    """Runs at three widths, the middle one best: `cells("dense", [0.50, 0.52, 0.54])` with one loss per seed."""

    def make(text, losses, *, factors=(1.1, 1.0, 1.1), widths=(64, 96, 144), **more):
        return [
            run(text, factor * loss, width=width, seed=seed, **more)
            for width, factor in zip(widths, factors, strict=True)
            for seed, loss in enumerate(losses)
        ]

    return make
