"""Formats of results, which the suffix of `--out` may name, and tables."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.columns import fitted_lines
from einsearch_cli.cli.completing import one_of
from einsearch_cli.cli.options import choice_refusal
from einsearch_cli.errors import OutputError


class Format(StrEnum):
    """Formats of results; a command offers some of them."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    yaml = "yaml"
    markdown = "markdown"
    parquet = "parquet"


RESULTS: Final = tuple(Format)[:-1]
"""All formats except Parquet, which is for lists of structures."""
NUMBERS: Final = (Format.table, Format.json, Format.csv)

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
"""The format that a suffix promises; other suffixes need a format."""

Chosen = TypeVar("Chosen", bound=StrEnum)
Row = Mapping[str, Any]


def format_option(
    offered: Sequence[Format] = RESULTS,
    *,
    default: Format | None = Format.table,
    help: str = "How the result is written.",
) -> Any:
    """The option `--format` of a command that offers these."""

    def read(text: str) -> Format:
        if text not in offered:
            raise choice_refusal("--format", str(text), offered)
        return Format(text)

    return typer.Option(
        default,
        "--format",
        parser=read,
        autocompletion=one_of(*offered),
        metavar="FORMAT",
        help=help,
        show_default=True if default is not None else "what the suffix of --out says, else table",
    )


def chosen_format(
    given: Chosen | None,
    out: Path | None,
    default: Chosen,
    offered: Sequence[Chosen] | None = None,
    *,
    option: str = "--format",
) -> Chosen:
    """The format of the output: the given one, that of the suffix of `--out`, or the default.

    Args:
        given: value of the option; None if it was not given.
        out: the file; None for stdout.
        default: for stdout, pipes and devices.
        offered: what the command writes; all formats of the default's kind if not given.
        option: its name, for the message; empty where there is none.

    Raises:
        OutputError: option and suffix contradict each other, neither says a format, or the file cannot be written.

    >>> from einsearch_cli.cli.output import Format
    >>> chosen_format(None, Path("found.yaml"), Format.table)
    <Format.yaml: 'yaml'>
    """
    if out is None:
        return given or default
    from einsearch_cli.files import is_stream, refuse_unwritable

    offered = offered or list(type(default))
    promised = _FORMATS.get(out.suffix.lower(), ())
    found = _kept_promise(given, out, promised, default, offered, option) if promised else given
    refuse_unwritable(out)
    if found is None and not is_stream(out):
        raise _no_format(out, default, offered, option)
    return found or default


def _no_format(out: Path, default: StrEnum, offered: Sequence[StrEnum], option: str) -> OutputError:
    suffixes = [suffix for suffix, values in _FORMATS.items() if values[0] in offered]
    suffix = ".yaml" if ".yaml" in suffixes else suffixes[0]
    return OutputError(
        f"--out {str(out)!r} does not say the format: the name must end in {', '.join(suffixes)}",
        remedy=f"--out {out.stem}{suffix}" + (f", or add {option} {default}" if option else ""),
    )


def _kept_promise(
    given: Chosen | None,
    out: Path,
    promised: tuple[str, ...],
    default: Chosen,
    offered: Sequence[Chosen],
    option: str,
) -> Chosen:
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


def render(
    rows: Sequence[Row],
    objects: Sequence[Row],
    output: Format,
    *,
    least: Sequence[str] | None = None,
    folded: Collection[str] = (),
) -> str:
    """Render rows for people (table, csv, markdown) or whole objects for programs (json, jsonl).

    YAML lists the structures alone, as a study reads them. A `table` may leave out columns and fold others.
    """
    if output is Format.json:
        return json.dumps(list(objects), indent=2, ensure_ascii=False)
    if output is Format.jsonl:
        return "\n".join(json.dumps(item, ensure_ascii=False) for item in objects)
    if output is Format.csv:
        return _csv(rows)
    if output is Format.yaml:
        return "structures:\n" + "\n".join(f"- {row['structure']}" for row in rows) if rows else "structures: []"
    return table(rows, "github" if output is Format.markdown else "simple", least=least, folded=folded)


def table(
    rows: Sequence[Row],
    style: str = "simple",
    *,
    align_right: bool = False,
    least: Sequence[str] | None = None,
    folded: Collection[str] = (),
) -> str:
    """Rows as aligned text; optionally, all columns but the first are flush right.

    On a terminal that is too narrow, cells of `folded` columns take several lines, and columns are left out, those of
    `least` from its start (`fitted_lines`).
    """
    from tabulate import tabulate

    if not rows:
        return ""
    header, cells = list(rows[0]), [list(map(str, row.values())) for row in rows]
    sides = ["left", *["right"] * (len(header) - 1)] if align_right else None
    text = tabulate(cells, headers=header, tablefmt=style, disable_numparse=True, colalign=sides)
    room = None if style == "github" else console.width()
    if room is None or max(map(len, text.splitlines())) <= room:
        return text
    return "\n".join(fitted_lines(header, cells, cells, room, least=least, folded=folded, align_right=align_right))


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def ratio(part: float, whole: float) -> str:
    """A share of the dense layer's cost, such as `0.0625×`.

    >>> ratio(65536, 1048576)
    '0.0625×'
    """
    return f"{part / whole:.3g}×"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "seed"), counted(2000, "seed")
    ('1 seed', '2,000 seeds')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def environment() -> tuple[tuple[str, str], ...]:
    """Versions and machine, for reports."""
    import torch

    from einsearch_cli.version import __version__

    return (
        ("einsearch", __version__),
        ("python", platform.python_version()),
        ("torch", str(torch.__version__)),
        ("platform", platform.platform()),
        ("cores", str(os.cpu_count())),
    )
