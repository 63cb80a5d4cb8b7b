"""Full runs: one transformer trained on tokens, with checkpoints; what `einsearch train` does."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.training.full.lengthening import refuse_folder_of_other
    from einsearch_cli.training.full.loading import load_model, refuse_without_checkpoint
    from einsearch_cli.training.full.metrics import StepMetrics, read_metrics
    from einsearch_cli.training.full.phases import Phases, phases_of
    from einsearch_cli.training.full.result import RunResult, read_result
    from einsearch_cli.training.full.train_plan import TrainPlan, plan_run, probe_seconds
    from einsearch_cli.training.full.train_spec import TrainSpec
    from einsearch_cli.training.full.train_spec_file import load_train_specs
    from einsearch_cli.training.full.trainer import Listener, Silent, train_full
    from einsearch_cli.training.full.world import World, choose_device, open_world
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "lengthening": ("refuse_folder_of_other",),
            "loading": ("load_model", "refuse_without_checkpoint"),
            "metrics": ("StepMetrics", "read_metrics"),
            "phases": ("Phases", "phases_of"),
            "train_plan": ("TrainPlan", "plan_run", "probe_seconds"),
            "result": ("RunResult", "read_result"),
            "train_spec": ("TrainSpec",),
            "train_spec_file": ("load_train_specs",),
            "trainer": ("Listener", "Silent", "train_full"),
            "world": ("World", "choose_device", "open_world"),
        },
    )

__all__ = [
    "Listener",
    "Phases",
    "RunResult",
    "Silent",
    "StepMetrics",
    "TrainPlan",
    "TrainSpec",
    "World",
    "choose_device",
    "load_model",
    "load_train_specs",
    "open_world",
    "phases_of",
    "plan_run",
    "probe_seconds",
    "read_metrics",
    "read_result",
    "refuse_folder_of_other",
    "refuse_without_checkpoint",
    "train_full",
]
