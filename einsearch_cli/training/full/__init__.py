"""Full runs: one transformer trained on tokens, with checkpoints, as `einsearch train` does."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.full.controls import with_controls as with_controls
    from einsearch_cli.training.full.lengthening import refuse_folder_of_other as refuse_folder_of_other
    from einsearch_cli.training.full.loading import (
        load_model as load_model,
        refuse_without_checkpoint as refuse_without_checkpoint,
    )
    from einsearch_cli.training.full.metrics import StepMetrics as StepMetrics, read_metrics as read_metrics
    from einsearch_cli.training.full.phases import phases_of as phases_of
    from einsearch_cli.training.full.result import RunResult as RunResult, read_result as read_result
    from einsearch_cli.training.full.train_plan import (
        TrainPlan as TrainPlan,
        plan_run as plan_run,
        probe_seconds as probe_seconds,
    )
    from einsearch_cli.training.full.train_spec import TrainSpec as TrainSpec
    from einsearch_cli.training.full.train_spec_file import load_train_specs as load_train_specs
    from einsearch_cli.training.full.trainer import Listener as Listener, Silent as Silent, train_full as train_full
    from einsearch_cli.training.full.world import (
        World as World,
        open_world as open_world,
    )
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
