"""Talk goes to stderr, data to stdout; colours only on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def error(problem: str, remedy: str | None = None) -> None:
    """Print an error and what to do about it."""
    talk(f"error: {problem}" + (f"\n  try: {remedy}" if remedy else ""))


def talk(text: str) -> None:
    """Print a line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def data(text: str, out: Path | None = None) -> None:
    """Print the result of a command, or write it to a file."""
    if out is None:
        print(text.rstrip("\n"))  # noqa: T201
        return
    from einsearch_cli.files import write_atomically

    write_atomically(out, text.rstrip("\n") + "\n")
    talk(f"wrote {out}")


def stream(text: str) -> None:
    """Print a piece of the result at once, without ending the line."""
    print(text, end="", flush=True)  # noqa: T201


def talk_console(*, quiet: bool = False) -> Console:
    """A rich console on stderr; a quiet one shows nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)
