"""Write the generated pages again: `python docs/generate.py [FOLDER]`. A test compares them with the code.

- reference/cli.md: every command, from the program itself;
- reference/spec-keys.md: every key of a file, from the settings that read it;
- reference/results.md: every field of results.json, from its JSON schema;
- reference/speed.md: every figure, from benchmarks/results;
- design/log/index.md: every entry of the log.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperArgument

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import speed_page  # noqa: E402
from einsearch_cli.cli import help_page  # noqa: E402
from einsearch_cli.cli.commands import SUMMARIES, load_command  # noqa: E402
from einsearch_cli.search.spec import StudySpec  # noqa: E402
from einsearch_cli.tasks import find_task, task_names  # noqa: E402
from einsearch_cli.training.full.train_spec import TrainSpec  # noqa: E402

DOCS = ROOT / "docs"
WIDTH = 120
Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """The text of every generated page, by its path in docs."""
    return {
        "reference/cli.md": commands(),
        "reference/spec-keys.md": spec_keys(),
        "reference/results.md": results(),
        "reference/speed.md": speed_page.page(),
        "design/log/index.md": log_index(),
    }


def commands() -> str:
    """One section a command: usage, arguments and options with their defaults, examples."""
    parts = [
        "# Commands",
        "`einsearch COMMAND --help` shows the same text. Files, formats and exit codes are the same for all commands:\n"
        "see [outputs](outputs.md).",
        "\n".join(_wrapped(f"- [`{name}`](#einsearch-{name}): {summary}") for name, summary in SUMMARIES.items()),
    ]
    for name in SUMMARIES:
        command = load_command(name)
        parts += [f"## `einsearch {name}`", *_prose(command.help)]
        arguments = [param for param in command.params if isinstance(param, TyperArgument)]
        others = [param for param in command.params if param not in arguments]
        for title, params in (("Arguments", arguments), ("Options", others)):
            if params:
                rows = [help_page.entry(param) for param in params]
                parts += [f"**{title}**", "\n".join(_wrapped(f"- `{label}`: {text}") for label, text in rows)]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> Iterator[str]:
    """Paragraphs of a help page; command lines become blocks of code, and names with what they mean a list."""
    commands: list[str] = []
    for paragraph in [*text.strip("\n").split("\n\n"), ""]:
        lines = paragraph.splitlines()
        if paragraph.startswith("  ") and not help_page.is_definition(lines[0]):
            commands += [f"$ {line.strip()}" for line in lines]
            continue
        if commands:
            yield "\n".join(["```console", *commands, "```"])
            commands = []
        if paragraph.startswith("  "):
            yield "\n".join(_wrapped(f"- `{name}`: {text}") for name, text in help_page.definitions(lines))
        elif paragraph:
            yield _wrapped(f"**{paragraph}**" if paragraph.endswith(":") and len(lines) == 1 else " ".join(lines))


def _wrapped(line: str) -> str:
    indent = "  " if line.startswith(("* ", "- ")) else ""
    return (
        line
        if line.startswith("$ ")
        else "\n".join(
            textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    )


def spec_keys() -> str:
    """One section a group of keys, of study files and of training files."""
    seen: dict[str, str] = {}
    parts = [
        "# Keys of study and training files",
        "`einsearch rank FILE.yaml` reads a study, and `einsearch train FILE.yaml` reads a training file. An unknown key is\n"
        "refused. A key without a default is needed, unless it is optional.",
        *_sections("Study files", StudySpec.model_json_schema(), seen),
    ]
    for name in task_names():
        parts += _sections(f"Task {name}", find_task(name).settings_type.model_json_schema(), seen)
    parts += _sections("Training files", TrainSpec.model_json_schema(), seen)
    return "\n\n".join(parts) + "\n"


def results() -> str:
    """The fields of results.json: those of the document, then those of every kind of part."""
    schema = json.loads((DOCS / "reference" / "schemas" / "results.schema.json").read_text(encoding="utf-8"))
    parts = [
        "# Fields of results.json",
        "`einsearch rank` writes `results.json` into the folder of the study. These are the fields of\n"
        "[its JSON schema](schemas/results.schema.json).",
        *_sections("The document", schema, {}),
    ]
    return "\n\n".join(parts) + "\n"


def log_index() -> str:
    """One line for every entry, newest month first."""
    parts = [
        "# The log: decisions and negative results",
        "One page a month, newest entries first. Figures are those of the day: what was measured again later has a later\n"
        "entry. Here is one line for every entry.",
    ]
    for page in sorted((DOCS / "design" / "log").glob("20*.md"), reverse=True):
        entries = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.M)
        lines = [
            _wrapped(f"- {entry[:10]}: [{entry.partition(': ')[2]}]({page.name}#{_anchor(entry)})") for entry in entries
        ]
        parts += [f"## [{page.stem}]({page.name})", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _anchor(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _sections(title: str, schema: Schema, seen: dict[str, str]) -> Iterator[str]:
    """A section for an object, then one for every kind of object in it that no section was made for before."""
    waiting = [(f"## {title}", schema)]
    defined = schema.get("$defs", {})
    while waiting:
        heading, part = waiting.pop(0)
        yield heading
        if about := part.get("description", "").split("\n\n")[0].replace("\n", " "):
            yield _wrapped(about)
        lines = []
        for key, field in part.get("properties", {}).items():
            for name in dict.fromkeys(re.findall(r"#/\$defs/(\w+)", json.dumps(field))):
                if name not in seen:
                    seen[name] = f"{title}: {key}"
                    waiting.append((f"### {seen[name]}", defined[name]))
            lines.append(
                _wrapped(f"- `{key}` ({_facts(field, key in part.get('required', ()), seen)}): {_meaning(field)}")
            )
        yield "\n".join(lines)


def _meaning(field: Schema) -> str:
    return " ".join(field.get("description", "").split())


def _facts(field: Schema, is_needed: bool, seen: Mapping[str, str]) -> str:
    """Type, limits, default and example."""
    facts = [_type(field, seen)]
    if "default" in field and field["default"] is not None and not isinstance(field["default"], dict):
        facts.append(f"default `{_value(field['default'])}`")
    elif not is_needed:
        facts.append("optional")
    facts += [f"such as `{_value(example)}`" for example in field.get("examples", [])[:1]]
    return ", ".join(facts)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


NAMES = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "keys", "null": "null"}


def _type(field: Schema, seen: Mapping[str, str]) -> str:
    if reference := field.get("$ref"):
        title = seen[reference.rpartition("/")[2]]
        return f"[keys](#{_anchor(title)})"
    if choices := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(choice, seen) for choice in choices if choice.get("type") != "null")
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "any value")
    if isinstance(kind, list):
        return " or ".join(NAMES.get(each, each) for each in kind)
    if kind == "array":
        return f"list of {_type(items, seen)}" if (items := field.get("items")) else "list"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type(field['additionalProperties'], seen)}"
    return NAMES.get(kind, kind) + _limits(field)


def _limits(field: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[name]:,}" for name, sign in signs.items() if name in field]
    return f" {' and '.join(found)}" if found else ""


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, text in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
