from collections.abc import Callable

import pytest

from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Status, Trial, TrialResult

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
    ) -> TrialResult:
        trial = Trial(parse_structure(text), width, seed, rung, flops)
        error = None if status == "ok" else "loss became NaN"
        return TrialResult(trial, status, loss, 100 * width, flops, 1.1 * flops, 10, 2.0, ((flops, 1.0),), error)

    return make
