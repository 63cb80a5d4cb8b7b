"""`einsearch tasks`: the proxy tasks and their settings."""

from __future__ import annotations

from einsearch_cli.cli import console
from einsearch_cli.cli.output import Format, format_option, render

HELP = """List the proxy tasks with their settings, for `task_settings` in a study.

[bold]Example[/bold]

  einsearch tasks
"""


def tasks_command(
    output: Format = format_option(),
) -> None:
    from einsearch_cli.tasks import find_task, task_names

    rows = [
        {
            "task": name,
            "setting": field,
            "default": str(info.default),
            "meaning": " ".join((info.description or "").split()),
        }
        for name in task_names()
        for field, info in find_task(name).settings_type.model_fields.items()
    ]
    console.data(render(rows, rows, output))
