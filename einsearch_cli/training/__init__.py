"""One training run: `train(ProxyRun(...))` gives a `RunOutcome`."""

from einsearch_cli.training.run import (
    MINIMUM_STEPS,
    Progress,
    RunCost,
    estimate_seconds,
    plan_run,
    seconds_per_step,
    train,
)
from einsearch_cli.training.settings import OptimizerSettings, ProxyRun, RunOutcome

__all__ = [
    "MINIMUM_STEPS",
    "OptimizerSettings",
    "Progress",
    "ProxyRun",
    "RunCost",
    "RunOutcome",
    "estimate_seconds",
    "plan_run",
    "seconds_per_step",
    "train",
]
