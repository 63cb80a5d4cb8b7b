"""The proxy tasks: what a run is trained on. One registration each; see `Task` for the contract."""

from einsearch_cli.data.base import (
    AnyTask,
    Batch,
    Task,
    TaskSettings,
    default_cache_folder,
    find_task,
    open_task,
    register_task,
    task_names,
)
from einsearch_cli.data.teacher import TeacherSettings, TeacherTask
from einsearch_cli.data.text import TextSettings, TextTask

__all__ = [
    "AnyTask",
    "Batch",
    "Task",
    "TaskSettings",
    "TeacherSettings",
    "TeacherTask",
    "TextSettings",
    "TextTask",
    "default_cache_folder",
    "find_task",
    "open_task",
    "register_task",
    "task_names",
]
