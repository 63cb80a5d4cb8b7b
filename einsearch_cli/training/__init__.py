"""Training: proxy runs, which compare structures (`proxy`), and full runs of one transformer (`full`).

Both take their parameter groups, learning rates and schedule from `optimizer`.
"""

from einsearch_cli.training.proxy import (
    MINIMUM_STEPS,
    OptimizerSettings,
    Progress,
    ProxyRun,
    RunCost,
    RunOutcome,
    RunSpeed,
    StepDone,
    minimal_budget,
    plan_run,
    probe,
    train,
)

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
