import math
from collections.abc import Callable

import pytest

from einsearch_cli.reports import StudyReport
from einsearch_cli.scaling import rank_candidates
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult

MakeStudy = Callable[..., StudyReport]

QUALITY = {"dense": 1.0, "btt:r=2": 0.8, "monarch": 0.85, "low-rank": 1.2, "kronecker": 1.4}


@pytest.fixture
def study() -> MakeStudy:
    """A study whose losses follow known power laws: `study(["dense", "monarch"], rungs=2)`."""

    def make(
        texts=tuple(QUALITY),
        *,
        rungs=2,
        seeds=3,
        widths=(64, 128, 256),
        stopped=(),
        failed=(),
        error="loss became NaN",
        baselines=(),
        yardstick="dense",
        **more,
    ):
        results = []
        for position, text in enumerate(texts):
            for rung in range(1 if text in stopped else rungs):
                for width in widths:
                    for seed in range(seeds):
                        trial = Trial(parse_structure(text), width, seed, rung, 1e10 * 4.0**rung)
                        quality = QUALITY.get(text, 1 + 0.02 * position)
                        results.append(_run(trial, quality, error if text in failed else None))
        return StudyReport(
            title=more.pop("title", "A study"),
            task=more.pop("task", "teacher"),
            budget_flops=1e10 * 4.0 ** (rungs - 1),
            results=tuple(results),
            ranking=rank_candidates(results, parse_structure(yardstick)),
            comparisons=tuple(rank_candidates(results, parse_structure(text)) for text in baselines),
            **more,
        )

    return make


def _run(trial: Trial, quality: float, error: str | None) -> TrialResult:
    budget = trial.budget_flops
    if error is not None:
        return TrialResult(trial, "diverged", None, 100, 0.0, 0.0, 3, 1.0, ((budget, math.nan),), error)
    loss = quality * math.pow(budget / 1e10, -0.3) * (1 + 0.001 * trial.seed + 0.1 * (trial.width != 128))
    curve = tuple((budget * k / 100, loss * (2 - k / 100)) for k in range(101))
    return TrialResult(trial, "ok", loss, trial.width**2, budget, 1.1 * budget, 500, 12.5, curve, None)
