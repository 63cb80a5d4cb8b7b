"""The commands by name; a command's module is imported when it is called or its help is requested."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from einsearch_cli.cli.help_page import Command, program_page
from einsearch_cli.errors import SpecError, near_name

SUMMARIES: Final = {
    "enumerate": "List all structures of up to N factors on a grid of exponents, each once, in normal form.",
    "sample": "Draw structures of N factors from the continuous space, uniform on the simplices of exponents.",
    "classify": "Classify structures: family, ω ψ ν, the cut that limits the rank, parameters, FLOPs, verdict.",
    "draw": "Draw a structure as a tensor network, with the cut that limits its rank.",
    "search": "Search structures with any exponents, and confirm the best against dense and known families.",
    "rank": "Train candidates at equal training FLOPs and rank them against dense.",
    "suggest": "Suggest structures for a layer, with costs and what studies say of them.",
    "evidence": "Keep what studies found, for `einsearch suggest`, or list what is known.",
    "status": "Say how far a study is: runs, stage, rate, time left, cost.",
    "watch": "Follow a study that runs elsewhere until it ends.",
    "clean": "Remove checkpoints of finished runs from the folder of a study.",
    "report": "Make the ranking, its tables and its page again from stored runs, or compare two studies.",
    "train": "Train a transformer, or several one after another, as a YAML file says.",
    "bench": "Compare the speed of layers with nn.Linear and with their own bare matrix products.",
    "params": "Show parameters and FLOPs of a transformer, and what its training takes.",
    "generate": "Continue a text with a transformer that `einsearch train` made.",
    "project": "Project the dense matrices of a trained model onto a structure.",
    "export": "Write a trained transformer for other programs.",
    "families": "List the named families with their carrier sets, parameters and formulas.",
    "tasks": "List the proxy tasks with their settings, for `task_settings` in a study.",
    "tokenize": "Encode a text file, or a folder of text files, into token files: train.bin, val.bin and meta.json.",
}
"""First line of every command's `HELP`, so that the list of commands is shown without importing them."""


class LazyCommands(TyperGroup):
    """The group of all commands, each a placeholder with its summary until it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in SUMMARIES.items()}

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of the program; flags of typer without a default get one.

        typer imports pydantic, which takes 0.1 s, for a default of None.
        """
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of `--help`."""
        formatter.write(program_page(self, ctx, shutil.get_terminal_size().columns))

    def resolve_command(self, ctx: Any, args: Sequence[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the words name; running it and completing its options both come here."""
        if args and args[0] not in SUMMARIES and not args[0].startswith("-"):
            raise SpecError(
                f"{args[0][:40]!r} is not a command: the commands are {', '.join(SUMMARIES)}",
                remedy=f"einsearch {near_name(args[0], SUMMARIES) or '--help'}",
            )
        name, _, rest = super().resolve_command(ctx, list(args))
        return name, None if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """The command of this name with its options, from its module: `HELP` and the function NAME_command.

    >>> load_command("tasks").name
    'tasks'
    """
    module = import_module(f"einsearch_cli.cli.{name}")
    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    alone.command(name, cls=Command, help=module.HELP)(getattr(module, f"{name}_command"))
    return typer.main.get_command(alone)
