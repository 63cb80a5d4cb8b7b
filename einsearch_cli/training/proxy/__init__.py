"""Proxy runs: many small networks at equal compute, to rank structures."""

from einsearch_cli.training.proxy.run import (
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
from einsearch_cli.training.proxy.settings import OptimizerSettings, ProxyRun, RunOutcome

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
