"""The page that `--help` prints: prose, examples and options, folded between words to any width of the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import zip_longest
from typing import Any, Final

import typer
from typer.core import TyperArgument, TyperCommand
from typer.exceptions import TyperException

MOST_COLUMNS: Final = 100
"""The most columns of a line; longer lines are hard to read."""
_NARROW: Final = 60
"""The width below which help stands under the name of an option, not to its right."""
_LABELS: Final = 26
"""The widest label with its help to its right."""
_EVERYWHERE: Final = "--quiet, --verbose, --traceback and --plugin work with every command: see einsearch --help."
_DEFINITION: Final = re.compile(r"  (\S+(?: \S+)?) {2,}(\S.*)")
_FACTS: Final = re.compile(r"\[[^]]*\]$")
_SHORT: Final = 30
"""The most characters of facts that are not broken."""
_GLUE: Final = "\0"
_WORDS: Final = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\S)+")
"""The words of a command line, quoted ones whole."""

Pair = tuple[str, str]


class Command(TyperCommand):
    """A command whose help is such a page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of `--help`."""
        formatter.write(command_page(self, ctx, shutil.get_terminal_size().columns))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that are left after those of options; every refusal knows its command."""
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            if vars(error).get("ctx") is None:
                vars(error)["ctx"] = ctx
            raise


def command_page(command: Any, context: Any, columns: int) -> str:
    """The page of one command."""
    params = [param for param in command.get_params(context) if not param.hidden]
    room = min(columns, MOST_COLUMNS)
    options = [param for param in params if not isinstance(param, TyperArgument)]
    usage = [context.command_path, "[OPTIONS]", *(_in_usage(param) for param in params if param not in options)]
    return _page(
        _folded(" ".join(usage), room, "Usage: ", " " * 4),
        *_prose(command.help, room),
        *_section("Arguments", [entry(param) for param in params if param not in options], room),
        *_section("Options", list(map(entry, options)), room),
        textwrap.fill(_EVERYWHERE, room),
    )


def program_page(group: Any, context: Any, columns: int) -> str:
    """The page of the program: its commands and the options of all of them."""
    room = min(columns, MOST_COLUMNS)
    commands = [(name, group.get_command(context, name).help) for name in group.list_commands(context)]
    options = [entry(param) for param in group.get_params(context) if not param.hidden]
    return _page(
        _folded(f"{context.command_path} [OPTIONS] COMMAND ...", room, "Usage: ", " " * 4),
        textwrap.fill(group.help, room),
        *_section("Commands", commands, room),
        *_section("Options", options, room),
        *_prose(group.epilog, room),
    )


def examples_of(text: str) -> list[str]:
    """The command lines of a command's `HELP`.

    >>> examples_of("Do it.\\n\\nExamples:\\n\\n  einsearch tasks\\n")
    ['einsearch tasks']
    """
    return [line.strip() for line in text.splitlines() if line.startswith("  ") and not is_definition(line)]


def _page(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def _section(title: str, rows: Sequence[Pair], room: int) -> Iterator[str]:
    if rows:
        yield typer.style(title, bold=True) + "\n" + _two_columns(rows, room)


def _prose(text: str, room: int) -> Iterator[str]:
    """Fill paragraphs; indented lines are command lines, or names with their meanings."""
    for paragraph in textwrap.dedent(text).strip("\n").split("\n\n"):
        lines = paragraph.splitlines()
        if not paragraph.startswith("  "):
            filled = _folded(" ".join(lines), room)
            yield typer.style(filled, bold=True) if filled.endswith(":") and len(lines) == 1 else filled
        elif is_definition(lines[0]):
            yield _two_columns(definitions(lines), room)
        else:
            yield "\n".join(_command_line(line.strip(), room) for line in lines)


def is_definition(line: str) -> bool:
    """Whether a line is a name with its meaning, two or more spaces apart."""
    return _DEFINITION.fullmatch(line) is not None


def definitions(lines: Sequence[str]) -> list[Pair]:
    """Names with their meanings; a continued line is indented further.

    >>> definitions(["  onnx  a model;", "        needs onnx", "  hf    a folder"])
    [('onnx', 'a model; needs onnx'), ('hf', 'a folder')]
    """
    found: list[Pair] = []
    for line in lines:
        if new := _DEFINITION.fullmatch(line):
            found.append((new[1], new[2]))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def _command_line(line: str, room: int) -> str:
    """A command that can be copied; a folded one has backslashes at the ends of its lines.

    >>> print(_command_line("einsearch rank monarch btt:r=2 --budget 1e10", 28))
      einsearch rank monarch \\
        btt:r=2 --budget 1e10
    """
    words = _WORDS.findall(line)
    lines, line = [], " "
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        is_option = word.startswith("-") and not before.startswith("-") and not after.startswith("-")
        stays = is_option or word == "<"  # with the word after it
        unit = f"{word} {after}" if stays and len(word) + len(after) + 7 <= room else word
        if len(line) + len(unit) + 3 > room and line.strip():
            lines.append(f"{line} \\")
            line = " " * 3
        line += f" {word}"
    return "\n".join([*lines, line])


def _two_columns(rows: Sequence[Pair], room: int) -> str:
    labels = [label for label, _ in rows]
    column = max((len(label) for label in labels if len(label) <= _LABELS), default=0) + 4
    return "\n".join(_entry(label, text, column if room >= _NARROW else None, room) for label, text in rows)


def _entry(label: str, text: str, column: int | None, room: int) -> str:
    """A label and its text, which starts at the column, or below the label if there is none."""
    indent = " " * (6 if column is None else column)
    lines = textwrap.wrap(_FACTS.sub(_joined, text), room - len(indent), break_long_words=False, break_on_hyphens=False)
    lines = [line.replace(_GLUE, " ") for line in lines]
    if column is None or len(label) > column - 4:
        return "\n".join([_folded(label, room, "  ", "    "), *(indent + line for line in lines)])
    first = f"  {label}"
    return "\n".join(
        f"{name:<{column}}{line}".rstrip() for name, line in zip_longest([first], lines or [""], fillvalue="")
    )


def _joined(facts: re.Match[str]) -> str:
    """Short facts on one line."""
    return facts[0].replace(" ", _GLUE) if len(facts[0]) <= _SHORT else facts[0]


def _folded(text: str, room: int, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        text, room, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def _in_usage(argument: Any) -> str:
    name = f"{argument.metavar or argument.name.upper()}{'...' if argument.nargs != 1 else ''}"
    return name if argument.required else f"[{name}]"


def entry(param: Any) -> Pair:
    """An argument or option with its help, its choices and its default."""
    if isinstance(param, TyperArgument):
        label = _in_usage(param).strip("[]")
    else:
        names = ", ".join([*sorted(param.opts, key=len), *param.secondary_opts])
        label = f"{names} {param.metavar or ('' if param.is_flag else param.name.upper())}".rstrip()
    facts = [f"one of {', '.join(choices)}"] if (choices := choices_of(param)) else []
    if default := default_text(param):
        facts.append(f"default: {default}")
    if param.required:
        facts.append("required")
    return label, (param.help or "") + (f"  [{'; '.join(facts)}]" if facts else "")


def choices_of(param: Any) -> tuple[str, ...]:
    """The values that an argument or option takes, if it takes no others."""
    kind = param.type_descriptor
    offers, parser = kind.parameter_info.autocompletion, kind.parameter_info.parser
    listed = vars(offers).get("choices") if offers else None
    choices = listed or (() if parser else kind.choices) or ()
    return tuple(str(getattr(choice, "value", choice)) for choice in choices)


def default_text(param: Any) -> str:
    """The default of a parameter in words, empty where there is none to show."""
    default: Any = param.default
    if isinstance(param.show_default, str):
        return param.show_default
    if not param.show_default or default is None or default is False or default == []:
        return ""
    if default is True:
        return "on"
    return str(default.value if isinstance(default, Enum) else default)
