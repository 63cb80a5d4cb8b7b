"""What `--out` names: its suffix decides the format, and what cannot be written is refused before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import typer

from einsearch_cli.errors import OutputError, SpecError

_FORMATS: Final[dict[str, tuple[str, ...]]] = {
    ".json": ("json",),
    ".jsonl": ("jsonl",),
    ".csv": ("csv",),
    ".yaml": ("yaml",),
    ".yml": ("yaml",),
    ".md": ("markdown",),
    ".txt": ("table",),
    ".parquet": ("parquet",),
    ".html": ("html",),
    ".svg": ("svg",),
    ".png": ("png",),
    ".safetensors": ("safetensors", "dense"),
    ".pt2": ("torch-export",),
    ".onnx": ("onnx",),
}
"""What a suffix promises; others are taken with a format only."""

Chosen = TypeVar("Chosen", bound=StrEnum)


def out_file(*, default: Any = None, help: str) -> Any:
    """The option `--out` of a command that writes a file."""
    return typer.Option(default, "--out", parser=path_parser("--out", _refuse_folder), metavar="PATH", help=help)


def out_folder(*, default: Any = None, help: str) -> Any:
    """The option `--out` of a command that writes a folder."""
    return typer.Option(default, "--out", parser=path_parser("--out", _refuse_file), metavar="PATH", help=help)


def path_parser(name: str, check: Callable[[str, str], None] | None = None) -> Callable[[Any], Path]:
    """Reads a path; `check` gets the name of the option and the text.

    Raises:
        SpecError: no text, which Python takes for the current folder.
    """

    def read(text: Any) -> Path:
        if text == "":
            raise SpecError(f"{name} is empty: a path is needed", remedy=f"{name} NAME")
        if check is not None:
            check(name, str(text))
        return Path(text)

    return read


def _refuse_folder(name: str, text: str) -> None:
    if text.endswith(("/", os.sep)) and not os.path.isdir(text):  # of a folder that is there, its writer says so
        raise OutputError(
            f"{name} {text!r}: a {text[-1]} at the end asks for a folder, a file is needed",
            remedy=f"leave the {text[-1]} out, or name a file in that folder",
        )


def _refuse_file(name: str, text: str) -> None:
    if os.path.lexists(text) and not os.path.isdir(text):
        raise OutputError(
            f"{name} {text!r} is not a folder: a folder is needed", remedy="give a name that is not taken"
        )


def chosen_format(given: Chosen | None, out: Path | None, default: Chosen, option: str = "--format") -> Chosen:
    """The format of the output: as given, or as the suffix of `--out` says, or the default.

    Args:
        given: value of the option; None if it was not given.
        out: the file; None for stdout.
        default: for stdout, pipes and devices.
        option: its name, for the message; empty where there is none.

    Raises:
        OutputError: option and suffix contradict each other, neither says a format, or the file cannot be written.

    >>> from einsearch_cli.cli.formats import Format
    >>> chosen_format(None, Path("found.yaml"), Format.table)
    <Format.yaml: 'yaml'>
    """
    if out is None:
        return given or default
    from einsearch_cli.files import is_stream, refuse_unwritable

    promised = _FORMATS.get(out.suffix.lower(), ())
    found = _kept_promise(given, out, promised, default, option) if promised else given
    refuse_unwritable(out)
    if found is None and not is_stream(out):
        raise _no_format(out, default, option)
    return found or default


def _no_format(out: Path, default: StrEnum, option: str) -> OutputError:
    suffixes = [suffix for suffix, values in _FORMATS.items() if values[0] in list(type(default))]
    suffix = ".yaml" if ".yaml" in suffixes else suffixes[0]
    return OutputError(
        f"--out {str(out)!r} does not say the format: the name must end in {', '.join(suffixes)}",
        remedy=f"--out {out.stem}{suffix}" + (f", or add {option} {default}" if option else ""),
    )


def _kept_promise(given: Chosen | None, out: Path, promised: tuple[str, ...], default: Chosen, option: str) -> Chosen:
    offered = list(type(default))
    if given is None and promised[0] in offered:
        return type(default)(promised[0])
    if given is not None and given in promised:
        return given
    wanted = given or default
    suffix = next((name for name, values in _FORMATS.items() if wanted in values), "")
    named = f"{option} {given} and --out" if given is not None else "--out"
    rule = f"the suffix {out.suffix} says {promised[0]}"
    if promised[0] not in offered:
        rule += f", and this command writes {', '.join(offered)}"
    leave = f", or leave {option} out" if given is not None and promised[0] in offered else ""
    raise OutputError(f"{named} {str(out)!r}: {rule}", remedy=f"--out {out.stem}{suffix}{leave}")
