"""Long lists of structures, written as they are found."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from einsearch_cli.cli import console
from einsearch_cli.cli.columns import GAP, fitted_lines
from einsearch_cli.cli.output import Format, chosen_format
from einsearch_cli.errors import OutputError
from einsearch_cli.lazy import optional_package

if TYPE_CHECKING:
    from einsearch_cli.structures import MixtureOfExperts, Structure

_FLUSH_S = 0.5
"""Seconds after which collected lines are written at the latest."""
_SAMPLE = 1000
"""Number of a table's first lines that determine the widths of its columns."""
_BATCH = 10_000
"""Number of rows per group of a Parquet file."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the taxonomy, as text."""

    omega: str
    psi: str
    nu: str
    kept: bool
    """Whether the default criteria keep structures of this place."""
    token_exponent: str | None = None
    """The token exponent τ, if ω and ν are those of contraction trees."""

    @classmethod
    def of(cls, omega: Fraction, psi: Fraction, nu: Fraction, tokens: Fraction | None = None) -> Place:
        from einsearch_cli.taxonomy import Bounds

        default = Bounds()
        kept = psi >= default.min_psi and omega <= default.max_omega and nu <= default.max_nu
        return cls(str(omega), str(psi), str(nu), kept, None if tokens is None else str(tokens))


@dataclass(frozen=True, slots=True)
class Listed:
    """A structure with its place in the taxonomy, or a layer of experts of that structure."""

    structure: Structure
    text: str
    """Text notation of the structure, or of the layer of experts."""
    place: Place
    mixture: MixtureOfExperts | None = None

    def row(self) -> dict[str, str]:
        """One row of the table for people."""
        return {
            "structure": self.text,
            "family": self.family,
            "ω": self.place.omega,
            "ψ": self.place.psi,
            "ν": self.place.nu,
            "kept": "yes" if self.place.kept else "no",
        }

    def to_json(self) -> dict[str, Any]:
        """Fields for programs: everything that does not depend on the dimensions, which `classify` adds."""
        from einsearch_cli.structures import theta_of

        theta = theta_of(self.structure)
        return {
            "text": self.text,
            "structure": self.structure.to_json(),
            "theta": None if theta is None else [str(exponent) for exponent in theta],
            **({} if self.mixture is None else {"experts": self.mixture.experts, "top": self.mixture.top}),
            "factors": len(self.structure.factors),
            "family": self.family,
            "omega": self.place.omega,
            "psi": self.place.psi,
            "nu": self.place.nu,
            "kept": self.place.kept,
            **({} if self.place.token_exponent is None else {"token_exponent": self.place.token_exponent}),
        }

    @property
    def family(self) -> str:
        from einsearch_cli.structures import layer_family

        return layer_family(self.structure if self.mixture is None else self.mixture)


def write_list(items: Iterable[Listed], output: Format, out: Path | None) -> int:
    """Write structures as they are found, to stdout or a file, and report their number."""
    from einsearch_cli.files import open_atomically

    count = 0

    def counted() -> Iterator[Listed]:
        nonlocal count
        for count, item in enumerate(items, start=1):  # noqa: B007
            yield item

    if out is None:
        _print_lines(_lines(counted(), output, console.width()))
        return count
    with open_atomically(out) as file:
        if output is Format.parquet:
            _write_parquet(counted(), file)
        else:
            file.writelines(line.encode() + b"\n" for line in _lines(counted(), output))
    console.talk(f"wrote {out}")
    return count


def _print_lines(lines: Iterator[str]) -> None:
    flushed_s = time.perf_counter()
    for line in lines:
        sys.stdout.write(console.shown(line) + "\n")
        if time.perf_counter() - flushed_s > _FLUSH_S:
            sys.stdout.flush()
            flushed_s = time.perf_counter()


def _lines(items: Iterator[Listed], output: Format, room: int | None = None) -> Iterator[str]:
    """The lines of a list; a table has columns for `room` characters if given."""
    if output is Format.json:
        return _json(items)
    if output is Format.jsonl:
        return (json.dumps(item.to_json(), ensure_ascii=False) for item in items)
    if output is Format.csv:
        return _csv(item.row() for item in items)
    if output is Format.yaml:
        return _yaml(items)
    is_markdown = output is Format.markdown
    return _aligned((item.row() for item in items), is_markdown, None if is_markdown else room)


def _json(items: Iterator[Listed]) -> Iterator[str]:
    last = None
    for item in items:
        yield "[" if last is None else last + ","
        last = "  " + json.dumps(item.to_json(), ensure_ascii=False, indent=2).replace("\n", "\n  ")
    yield from ("[]",) if last is None else (last, "]")


def _csv(rows: Iterator[dict[str, str]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="")
    for number, row in enumerate(rows):
        for cells in (row.keys(), row.values()) if number == 0 else (row.values(),):
            writer.writerow(cells)
            yield text.getvalue()
            text.seek(0)
            text.truncate()


def _yaml(items: Iterator[Listed]) -> Iterator[str]:
    first = next(items, None)
    yield "structures:" if first is not None else "structures: []"
    yield from (f"- {item.text}" for item in chain((first,), items) if item is not None)


def _aligned(rows: Iterator[dict[str, str]], is_markdown: bool, room: int | None) -> Iterator[str]:
    """A table with column widths from its first rows."""
    sample = list(islice(rows, _SAMPLE))
    if not sample:
        return
    names = [*sample[0]]
    widths = [max(len(name) + 2, *(len(row[name]) for row in sample)) for name in names]
    cells = ([*row.values()] for row in chain(sample, rows))
    if room is not None and sum(widths) + len(GAP) * (len(widths) - 1) > room:
        yield from fitted_lines(names, cells, [[*row.values()] for row in sample], room, least=("kept", "family"))
        return

    def line(cells: Iterable[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |" if is_markdown else GAP.join(padded).rstrip()

    rule = line("-" * width for width in widths)
    yield from (line(names), rule.replace(" ", "-") if is_markdown else rule)
    yield from map(line, cells)


def chosen_list_format(given: Format | None, out: Path | None) -> Format:
    """The format of a list, checked before any work is done."""
    chosen = chosen_format(given, out, Format.table)
    if chosen is not Format.parquet:
        return chosen
    if out is None:
        raise OutputError("--format parquet is binary: it needs a file", remedy="add --out structures.parquet")
    remedy = "pip install 'einsearch[parquet]', or --format csv"
    optional_package("pyarrow", "--format parquet needs the package pyarrow", remedy, OutputError)
    return chosen


def _write_parquet(items: Iterator[Listed], file: BinaryIO) -> None:
    """Columns of text (ω, ψ and ν exact), the number of factors and the verdict."""
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    text, whole, flag = pyarrow.string(), pyarrow.int8(), pyarrow.bool_()
    columns: dict[str, tuple[Any, Callable[[Listed], Any]]] = {
        "structure": (text, lambda item: item.text),
        "family": (text, lambda item: item.family),
        "factors": (whole, lambda item: len(item.structure.factors)),
        "omega": (text, lambda item: item.place.omega),
        "psi": (text, lambda item: item.place.psi),
        "nu": (text, lambda item: item.place.nu),
        "kept": (flag, lambda item: item.place.kept),
    }
    schema = pyarrow.schema({name: kind for name, (kind, _) in columns.items()})
    with parquet.ParquetWriter(file, schema) as writer:
        while rows := list(islice(items, _BATCH)):
            cells = {name: [read(item) for item in rows] for name, (_, read) in columns.items()}
            writer.write_table(pyarrow.table(cells, schema=schema))
