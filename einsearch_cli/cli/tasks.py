"""`einsearch tasks`: the proxy tasks and their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from einsearch_cli.cli import console
from einsearch_cli.cli.output import Format, format_option, render

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

HELP = """List the proxy tasks with their settings, for `task_settings` in a study.

Example:

  einsearch tasks
"""


def tasks_command(
    output: Format = format_option(),
) -> None:
    from einsearch_cli.errors import PluginError
    from einsearch_cli.tasks import find_task, task_names

    rows = []
    for name in task_names():
        try:
            fields = find_task(name).settings_type.model_fields
        except PluginError as error:  # of an installed package: the others are listed
            console.talk(f"warning: {error.problem}")
        else:
            rows += [{"task": name, **row} for row in _settings(fields)]
    console.data(render(rows, rows, output, least=(), folded=("default", "meaning")))


def _settings(fields: Mapping[str, FieldInfo], outer: str = "") -> Iterator[dict[str, str]]:
    """A row for each setting; nested ones have the outer name and a dot in front."""
    from einsearch_cli.settings.wording import models_in

    for name, field in fields.items():
        if models := models_in(field.annotation):
            yield from _settings(models[0].model_fields, f"{outer}{name}.")
        else:
            meaning = " ".join((field.description or "").split())
            yield {"setting": f"{outer}{name}", "default": _default(field), "meaning": meaning}


def _default(field: FieldInfo) -> str:
    """The default as a file writes it; a word where there is none."""
    from einsearch_cli.settings.wording import yaml_text

    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is None or value in ((), [], {}):
        return "required" if field.is_required() else "none"
    return yaml_text(value)
