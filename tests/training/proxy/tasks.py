"""A teacher small enough to train on within a test."""

from pathlib import Path

from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks.teacher import TeacherSettings, TeacherTask
from einsearch_cli.training import OptimizerSettings, ProxyRun


def small_teacher(folder: Path, **settings: object) -> TeacherTask:
    given = {
        "teacher_width": 64,
        "pool_size": 4096,
        "validation_size": 512,
        "batch_size": 128,
        "learning_rate": 0.02,
        "depth": 3,
    } | settings
    return TeacherTask(TeacherSettings.model_validate(given), folder)


def run_of(
    task: TeacherTask,
    structure: str = "dense",
    *,
    width: int = 64,
    budget_flops: float = 6e8,
    seed: int = 0,
    **optimizer: object,
) -> ProxyRun:
    return ProxyRun(
        task=task,
        structure=parse_layer(structure),
        width=width,
        budget_flops=budget_flops,
        seed=seed,
        optimizer=OptimizerSettings.model_validate(optimizer),
    )
