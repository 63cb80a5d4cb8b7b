"""Training: proxy runs, which compare structures (`proxy`), and full runs of one transformer (`full`).

Both use the same step (`update`), with an optimizer from the register `optimizers`.
"""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.proxy.cost import (
        MINIMUM_STEPS as MINIMUM_STEPS,
        RunCost as RunCost,
        minimal_budget as minimal_budget,
        run_cost as run_cost,
    )
    from einsearch_cli.training.proxy.run import (
        RunSpeed as RunSpeed,
        StepDone as StepDone,
        probe as probe,
        train as train,
    )
    from einsearch_cli.training.proxy.run_settings import (
        OptimizerSettings as OptimizerSettings,
        ProxyRun as ProxyRun,
        RunOutcome as RunOutcome,
    )
    from einsearch_cli.training.recovery import recover as recover
    from einsearch_cli.training.trainer import StructuredTraining as StructuredTraining
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
