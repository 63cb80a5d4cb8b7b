"""Proxy runs: many small networks at equal compute, to rank structures."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.cost import MINIMUM_STEPS, RunCost, minimal_budget, run_cost
    from einsearch_cli.training.proxy.run import RunSpeed, StepDone, probe, train
    from einsearch_cli.training.proxy.run_settings import OptimizerSettings, ProxyRun, RunOutcome
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "cost": ("MINIMUM_STEPS", "RunCost", "minimal_budget", "run_cost"),
            "run": ("RunSpeed", "StepDone", "probe", "train"),
            "run_settings": ("OptimizerSettings", "ProxyRun", "RunOutcome"),
        },
    )

__all__ = [
    "MINIMUM_STEPS",
    "OptimizerSettings",
    "ProxyRun",
    "RunCost",
    "RunOutcome",
    "RunSpeed",
    "StepDone",
    "minimal_budget",
    "probe",
    "run_cost",
    "train",
]
