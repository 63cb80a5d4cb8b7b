"""Training: proxy runs, which compare structures (`proxy`), and full runs of one transformer (`full`).

Both make the same step (`update`), with an optimizer from the register `optimizers`.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.proxy import (
        MINIMUM_STEPS,
        OptimizerSettings,
        ProxyRun,
        RunCost,
        RunOutcome,
        RunSpeed,
        StepDone,
        minimal_budget,
        probe,
        run_cost,
        train,
    )
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "proxy": (
                "MINIMUM_STEPS",
                "OptimizerSettings",
                "ProxyRun",
                "RunCost",
                "RunOutcome",
                "RunSpeed",
                "StepDone",
                "minimal_budget",
                "run_cost",
                "probe",
                "train",
            ),
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
