"""Files of structures: YAML, JSON, JSON lines, CSV, or one structure per line."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.structures.carrier_notation import REST, structure_of_terms
from einsearch_cli.structures.moe import MixtureOfExperts, NamedStructure
from einsearch_cli.structures.notation import read_structure
from einsearch_cli.structures.safe_yaml import load_yaml, read_text
from einsearch_cli.structures.scalars import core_scalar, whole_number

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl", ".csv", ".txt")
_MIXTURE_KEYS = {"experts", "top"}
_ENTRY_KEYS = {"name", "structure", "indices", "sizes", *_MIXTURE_KEYS}


def is_structure_file(text: str) -> bool:
    """Whether a command-line word names a file of structures rather than a structure.

    Its suffix decides. A pipe or a device needs none: /dev/stdin, or what a shell makes of `<(command)`.
    """
    return text.lower().endswith(SUFFIXES) or _is_stream(text)


def _is_stream(text: str) -> bool:
    if text.startswith(("/dev/", "/proc/self/fd/")):
        return True
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):  # a long structure is too long for the name of a file
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def read_structure_file(path: Path, *, block_diagonal: bool = False) -> list[NamedStructure]:
    """All structures of a file, in order; the suffix gives the format.

    Raises:
        SpecError: naming file and line of the first entry that is not a structure.
    """
    read = _READERS.get(path.suffix.lower(), _line_entries)
    return _collect(read(read_text(path), str(path)), str(path), block_diagonal)


def refuse_other_file(word: str) -> None:
    """Raise SpecError for a word that names a file, is not a structure, and has none of the suffixes."""
    path = Path(word)
    if not path.is_file():
        return
    _refuse_table(read_text(path), word)
    raise SpecError(
        f"{word} is a file, and its name does not say the format: files of structures end in {', '.join(SUFFIXES)}",
        remedy=f"rename it, for example to {path.stem}.txt with one structure a line",
    )


def _refuse_table(text: str, source: str) -> None:
    """Raise SpecError for the tables that `einsearch enumerate` prints for people."""
    first = text.lstrip().partition("\n")[0].replace("|", " ").split()
    if first[:2] == ["structure", "family"]:
        raise SpecError(
            f"{source} is a table for people: structures are read from YAML, JSON, CSV, or one a line",
            remedy="einsearch enumerate --out structures.yaml, or --format jsonl into a pipe",
        )


def read_structure_lines(text: str, source: str, *, block_diagonal: bool = False) -> list[NamedStructure]:
    """Read one structure per line, some perhaps as JSON objects; blank lines and lines that start with # are skipped."""
    return _collect(_line_entries(text, source), source, block_diagonal)


def _line_entries(text: str, source: str) -> Iterator[tuple[str, Any]]:
    _refuse_table(text, source)
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line and not line.startswith("#"):
            where = f"{source}:{number}"
            yield where, _loads(line, where) if line.startswith("{") else line


def _yaml_entries(text: str, source: str) -> Iterator[tuple[str, Any]]:
    """The entries of a list of structures, of a mapping with the key `structures`, or of one structure with `indices`."""
    document = load_yaml(text, source)
    entries = document.typed
    prefix: tuple[str | int, ...] = ()
    if isinstance(entries, dict) and "structures" in entries:
        if unknown := sorted(set(map(str, entries)) - {"structures"}):
            raise SpecError(
                f"{document.where((unknown[0],))}: unknown key {unknown[0]!r}: a file of structures has 'structures' only",
                remedy="einsearch rank reads studies; other commands take files of structures",
            )
        entries, prefix = entries["structures"], ("structures",)
    if not isinstance(entries, list):
        entries = [entries]
    yield from ((document.where((*prefix, i)), entry) for i, entry in enumerate(entries))


def structure_of_entry(entry: Any, where: str, *, block_diagonal: bool = False) -> NamedStructure:
    """Read one entry of a file: text, a mapping of carrier sets, or a mapping with `indices` or `structure`.

    An index takes an exponent (`1/2`), a fixed size (`{size: 4}`, `=4` or
    `4 blocks`) or the rest (`rest`). With `experts` and `top` it is a layer of experts.

    Raises:
        SpecError: with file and line.

    >>> structure_of_entry({"indices": {"XA": "rest", "XAB": {"size": 4}, "YB": 1}}, "x.yaml:1").structure
    parse_structure('XA=1/4*d XAB=4 YB^1')
    """
    try:
        if isinstance(entry, str):
            return read_structure(entry, block_diagonal=block_diagonal)
        if isinstance(entry, dict):
            return _with_experts(_of_mapping(entry, block_diagonal), entry)
    except EinsearchError as error:
        raise SpecError(f"{where}: {error.problem}", remedy=error.remedy) from error
    raise SpecError(
        f"{where}: {_shown(entry)} is not a structure: it must be text or a mapping",
        remedy="write for example btt:r=2",
    )


def _of_mapping(entry: dict[Any, Any], block_diagonal: bool) -> NamedStructure:
    name = _name(entry.get("name"))
    if isinstance(entry.get("structure"), str):
        sizes = {str(k): str(v) for k, v in entry["sizes"].items()} if isinstance(entry.get("sizes"), dict) else None
        sizes = sizes if "->" in entry["structure"] else None
        return replace(read_structure(entry["structure"], sizes, block_diagonal=block_diagonal), name=name)
    indices = entry.get("indices", entry.get("structure", entry))
    if indices is entry and set(entry) & _ENTRY_KEYS:
        indices = None
    if "indices" in entry and (unknown := sorted(set(map(str, entry)) - _ENTRY_KEYS)):
        raise SpecError(
            f"unknown key {unknown[0]!r}: a structure has {', '.join(sorted(_ENTRY_KEYS))}", remedy="remove the key"
        )
    if not isinstance(indices, dict) or not indices:
        raise SpecError("a structure needs 'indices', a mapping of carrier sets", remedy="indices: {XA: 1, YA: 1}")
    terms = {str(c): _index_text(c, v) for c, v in indices.items()}
    return NamedStructure(structure_of_terms(terms, block_diagonal=block_diagonal), name)


def _name(given: object) -> str | None:
    return None if given is None or core_scalar(str(given)) is None else str(given)


def _with_experts(found: NamedStructure, entry: dict[Any, Any]) -> NamedStructure:
    if not _MIXTURE_KEYS & set(entry):
        return found
    if found.mixture is not None or not set(entry) >= _MIXTURE_KEYS:
        raise SpecError(
            "a layer of experts is given by a structure without experts and by both keys 'experts' and 'top'",
            remedy="{structure: btt, experts: 16, top: 2}",
        )
    experts, top = (entry[key] for key in ("experts", "top"))
    return replace(found, mixture=MixtureOfExperts(found.structure, _count("experts", experts), _count("top", top)))


def _count(key: str, value: object) -> int:
    number = None if isinstance(value, bool) else whole_number(str(value))
    if number is None:
        raise SpecError(f"{key} is {str(value)[:40]!r}: it must be a whole number", remedy=f"{key}: 2")
    return number


def _index_text(carriers: object, value: object) -> str:
    if isinstance(value, dict) and len(value) == 1:
        [(kind, amount)] = value.items()
        if kind == "size":
            return f"={amount}"
        if kind == "exponent":
            return str(amount)
    elif isinstance(value, int | float | str) and not isinstance(value, bool):
        return str(value)
    raise SpecError(
        f"index {carriers} is {_shown(value)}: it must be an exponent, a size or {REST}",
        remedy=f"write {carriers}: 1/2, {carriers}: {{size: 4}} or {carriers}: {REST}",
    )


def _shown(value: object) -> str:
    """A value as the file writes it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return json.dumps(value, ensure_ascii=False)[:60]


def _collect(entries: Iterable[tuple[str, Any]], source: str, block_diagonal: bool) -> list[NamedStructure]:
    found = [structure_of_entry(entry, where, block_diagonal=block_diagonal) for where, entry in entries]
    if not found:
        raise SpecError(
            f"{source} holds no structure: it needs at least one", remedy="write one structure a line, such as monarch"
        )
    return found


def _loads(text: str, where: str) -> Any:
    """Read JSON with its numbers as they were typed, and refuse a key that occurs twice."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise SpecError(
                f"{where}: key {twice[0][:40]!r} occurs twice: a key may occur only once",
                remedy="remove one of the two",
            )
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping, parse_int=str, parse_float=str, parse_constant=str)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SpecError(f"{where}: not valid JSON: {error}", remedy="check quotes and commas") from error


def _json_entries(text: str, source: str) -> Iterator[tuple[str, Any]]:
    document = _loads(text, source)
    if isinstance(document, dict):
        document = document.get("structures", [document])
    if not isinstance(document, list):
        raise SpecError(
            f"{source}: expected a list of structures", remedy="einsearch enumerate --format json --out FILE"
        )
    yield from ((f"{source}, entry {number}", entry) for number, entry in enumerate(document, start=1))


def _json_lines(text: str, source: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{source}:{number}", _loads(line, f"{source}:{number}")


def _csv_entries(text: str, source: str) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text))
    if "structure" not in (rows.fieldnames or ()):
        raise SpecError(f"{source} has no column 'structure': the first line must name it", remedy="add a header line")
    for row in rows:
        yield f"{source}:{rows.line_num}", row["structure"] or ""


_READERS = {
    ".yaml": _yaml_entries,
    ".yml": _yaml_entries,
    ".json": _json_entries,
    ".jsonl": _json_lines,
    ".csv": _csv_entries,
}
