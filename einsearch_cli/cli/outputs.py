"""What `--out` names: its suffix decides the format, and what cannot be written is refused before any work is done."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from einsearch_cli.errors import OutputError

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
"""What a suffix promises; others promise nothing."""

Chosen = TypeVar("Chosen", bound=StrEnum)


def chosen_format(given: Chosen | None, out: Path | None, default: Chosen, option: str = "--format") -> Chosen:
    """The format of the output: as given, or as the suffix of `--out` says, or the default.

    Args:
        given: value of the option; None if it was not given.
        out: the file; None for stdout.
        default: for stdout, and for suffixes that promise nothing.
        option: its name, for the message.

    Raises:
        OutputError: option and suffix contradict each other, or the file cannot be written.

    >>> from einsearch_cli.cli.formats import Format
    >>> chosen_format(None, Path("found.yaml"), Format.table)
    <Format.yaml: 'yaml'>
    """
    promised = () if out is None else _FORMATS.get(out.suffix.lower(), ())
    if out is None:
        return given or default
    found = _kept_promise(given, out, promised, default, option) if promised else given or default
    from einsearch_cli.files import refuse_unwritable

    refuse_unwritable(out)
    return found


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
