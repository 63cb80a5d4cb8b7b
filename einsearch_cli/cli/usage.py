"""Refusals of the library that reads the command line, in the form of all errors: value and rule, and what to try."""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperArgument
from typer.exceptions import TyperException

from einsearch_cli.cli.help_page import choices_of, examples_of
from einsearch_cli.cli.options import as_typed, choice_refusal
from einsearch_cli.errors import near_name, near_or_all

_EXTRA: Final = re.compile(r"Got unexpected extra argument.*? \((.*)\)", re.DOTALL)


def explained(error: TyperException) -> tuple[str, str]:
    """The problem and its remedy; the kinds of refusals are private, and known by what they carry."""
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "einsearch"
    page, params = f"{command} --help", context.command.params if context else ()
    option = str(getattr(error, "option_name", ""))
    if hasattr(error, "possibilities"):  # its own guesses may be far
        near = near_name(option.lstrip("-"), [name.lstrip("-") for param in params for name in param.opts])
        return f"{as_typed(option)}: {command} has no such option", f"--{near}, or {page}" if near else page
    if extra := _EXTRA.fullmatch(error.message):
        after = "".join(f" after {each.metavar}" for each in params if isinstance(each, TyperArgument))
        return f"{as_typed(extra[1])}: {command} takes no argument{after}", page
    param = getattr(error, "param", None) or next((each for each in params if option in each.opts), None)
    if param is None:
        return error.format_message(), page
    choices = choices_of(param)
    rule = f"one of {', '.join(choices)} is needed" if choices else "it has no default"
    if hasattr(error, "param_type"):
        name = param.metavar if isinstance(param, TyperArgument) else max(param.opts, key=len)
        return f"{name} is missing: {rule}", next(iter(examples_of(context.command.help)), page)
    if option and param.is_flag:
        return f"{option} has a value: it takes none", option
    if option:
        rule = rule if choices else f"{param.metavar} is needed"
        return f"{option} has no value: {rule}", f"{option} {near_or_all('', choices)}" if choices else page
    return _refused_value(error, param, choices) or (error.format_message().replace("Value error, ", ""), page)


def _refused_value(error: TyperException, param: Any, choices: tuple[str, ...]) -> tuple[str, str] | None:
    """A value that is none of the choices; None for other values, whose parsers raise errors of einsearch."""
    faults = getattr(error.__cause__, "errors", None)
    if not choices or faults is None:
        return None
    refusal = choice_refusal(max(param.opts, key=len), str(faults()[0]["input"]), choices)
    return refusal.problem, refusal.remedy
