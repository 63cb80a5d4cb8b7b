"""One training run: `train(ProxyRun(...))` gives a `RunOutcome`."""

from einsearch_cli.training.run import (
    MINIMUM_STEPS,
    Progress,
    RunCost,
    RunSpeed,
    StepDone,
    minimal_budget,
    plan_run,
    probe,
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
    "RunSpeed",
    "StepDone",
    "minimal_budget",
    "plan_run",
    "probe",
    "train",
]
