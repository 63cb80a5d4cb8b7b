"""Long lists of structures, written while they are found."""

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
from einsearch_cli.cli.columns import folded_lines
from einsearch_cli.cli.output import Format, chosen_format
from einsearch_cli.errors import OutputError

if TYPE_CHECKING:
    from einsearch_cli.structures import MixtureOfExperts, Structure

_FLUSH_S = 0.5
"""Lines are handed on at least this often."""
_SAMPLE = 1000
"""Lines of a table that settle the widths of its columns."""
_BATCH = 10_000
"""Rows per group of a Parquet file."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the taxonomy, as text."""

    omega: str
    psi: str
    nu: str
    kept: bool
    """Whether the default criteria keep structures of this place."""
    token_exponent: str | None = None
    """τ, where ω and ν are those of contraction trees."""

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
    """That of the structure, or of the layer."""
    place: Place
    mixture: MixtureOfExperts | None = None

    def row(self) -> dict[str, str]:
        """For people."""
        return {
            "structure": self.text,
            "family": self.family,
            "ω": self.place.omega,
            "ψ": self.place.psi,
            "ν": self.place.nu,
            "kept": "yes" if self.place.kept else "no",
        }

    def to_json(self) -> dict[str, Any]:
        """For programs: everything that does not depend on the dimensions, which `classify` adds."""
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
    """Write structures as they come, to stdout or a file, and say how many there were."""
    counted = _Counted(items)
    if output is Format.parquet:
        _write_parquet(counted, out)
    elif out is not None:
        from einsearch_cli.files import open_atomically

        with open_atomically(out) as file:
            for line in _LINES[output](iter(counted)):
                file.write(line.encode() + b"\n")
    else:
        rows = iter(counted)
        is_table = output is Format.table
        _print_lines(_table(rows, console.width()) if is_table else _LINES[output](rows))
    if out is not None:
        console.talk(f"wrote {out}")
    return counted.count


class _Counted:
    def __init__(self, items: Iterable[Listed]) -> None:
        self.items = items
        self.count = 0

    def __iter__(self) -> Iterator[Listed]:
        for item in self.items:
            self.count += 1
            yield item


def _print_lines(lines: Iterator[str]) -> None:
    flushed_s = time.perf_counter()
    for line in lines:
        sys.stdout.write(console.shown(line) + "\n")
        if time.perf_counter() - flushed_s > _FLUSH_S:
            sys.stdout.flush()
            flushed_s = time.perf_counter()


def _json(items: Iterator[Listed]) -> Iterator[str]:
    last = None
    for item in items:
        yield "[" if last is None else last + ","
        last = json.dumps(item.to_json(), ensure_ascii=False, indent=2).replace("\n", "\n  ")
        last = "  " + last
    yield from ("[]",) if last is None else (last, "]")


def _jsonl(items: Iterator[Listed]) -> Iterator[str]:
    return (json.dumps(item.to_json(), ensure_ascii=False) for item in items)


def _csv(items: Iterator[Listed]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="")
    for number, row in enumerate(item.row() for item in items):
        for cells in (row.keys(), row.values()) if number == 0 else (row.values(),):
            writer.writerow(cells)
            yield text.getvalue()
            text.seek(0)
            text.truncate()


def _yaml(items: Iterator[Listed]) -> Iterator[str]:
    first = next(items, None)
    if first is None:
        yield "structures: []"
        return
    yield "structures:"
    yield from (f"- {item.text}" for item in chain((first,), items))


def _table(items: Iterator[Listed], room: int | None = None) -> Iterator[str]:
    return _aligned(items, "", "  ", "", "-", "  ", room)


def _markdown(items: Iterator[Listed]) -> Iterator[str]:
    return _aligned(items, "| ", " | ", " |", "-", "-|-")


def _aligned(
    items: Iterator[Listed], left: str, between: str, right: str, rule: str, cross: str, room: int | None = None
) -> Iterator[str]:
    rows = (item.row() for item in items)
    sample = list(islice(rows, _SAMPLE))
    if not sample:
        return
    widths = [max(len(name) + 2, *(len(row[name]) for row in sample)) for name in sample[0]]

    def line(cells: Iterable[str]) -> str:
        padded = between.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return (left + padded + right).rstrip()

    if room is not None and sum(widths) + len(between) * (len(widths) - 1) > room:
        cells = ([*row.values()] for row in chain(sample, rows))
        yield from folded_lines([*sample[0]], cells, [[*row.values()] for row in sample], room)
        return
    yield line(sample[0])
    yield left.replace(" ", rule) + cross.join(rule * width for width in widths) + right.replace(" ", rule)
    for row in chain(sample, rows):
        yield line(row.values())


_LINES: dict[Format, Callable[[Iterator[Listed]], Iterator[str]]] = {
    Format.table: _table,
    Format.json: _json,
    Format.jsonl: _jsonl,
    Format.csv: _csv,
    Format.yaml: _yaml,
    Format.markdown: _markdown,
}


def chosen_list_format(given: Format | None, out: Path | None) -> Format:
    """The format of a list; complains before any work is done."""
    chosen = chosen_format(given, out, Format.table)
    _refuse_parquet_without_file(chosen, out)
    return chosen


def _refuse_parquet_without_file(output: Format, out: Path | None) -> None:
    if output is not Format.parquet:
        return
    if out is None:
        raise OutputError("--format parquet is binary: it needs a file", remedy="add --out structures.parquet")
    try:
        import_module("pyarrow")
    except ImportError as error:
        raise OutputError(
            "--format parquet needs the package pyarrow, which is not installed",
            remedy="pip install 'einsearch[parquet]', or --format csv",
        ) from error


def _write_parquet(items: Iterable[Listed], out: Path | None) -> None:
    from einsearch_cli.files import open_atomically

    if out is not None:
        with open_atomically(out) as file:
            _parquet_rows(iter(items), file)


def _parquet_rows(items: Iterator[Listed], file: BinaryIO) -> None:
    """Columns of text (ω, ψ and ν exact), the number of factors and the verdict."""
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    fields = {"structure": pyarrow.string(), "family": pyarrow.string(), "factors": pyarrow.int8()}
    fields |= {"omega": pyarrow.string(), "psi": pyarrow.string(), "nu": pyarrow.string(), "kept": pyarrow.bool_()}
    schema = pyarrow.schema(fields)
    with parquet.ParquetWriter(file, schema) as writer:
        while rows := list(islice(items, _BATCH)):
            columns = {
                "structure": [item.text for item in rows],
                "family": [item.family for item in rows],
                "factors": [len(item.structure.factors) for item in rows],
                "omega": [item.place.omega for item in rows],
                "psi": [item.place.psi for item in rows],
                "nu": [item.place.nu for item in rows],
                "kept": [item.place.kept for item in rows],
            }
            writer.write_table(pyarrow.table(columns, schema=schema))
