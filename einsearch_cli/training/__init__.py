"""Training: proxy runs, which compare structures (`proxy`), and full runs of one transformer (`full`).

Both make the same step (`update`), with an optimizer from the register `optimizers`.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.proxy import (
        MINIMUM_STEPS as MINIMUM_STEPS,
        OptimizerSettings as OptimizerSettings,
        ProxyRun as ProxyRun,
        RunCost as RunCost,
        RunOutcome as RunOutcome,
        RunSpeed as RunSpeed,
        StepDone as StepDone,
        minimal_budget as minimal_budget,
        probe as probe,
        run_cost as run_cost,
        train as train,
    )
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
