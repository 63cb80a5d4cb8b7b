"""Structures and dimensions from the words of a command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from einsearch_cli.cli import console
from einsearch_cli.errors import SpecError, StructureError
from einsearch_cli.shipped import shipped_path

if TYPE_CHECKING:
    from einsearch_cli.structures import NamedStructure

DEFAULT_DIMENSION = 1024


def read_structures(specs: Sequence[str], sizes: str | None, block_diagonal: bool = False) -> list[NamedStructure]:
    """All structures that the words of a command line name: texts, files, or - for stdin."""
    from einsearch_cli.structures import (
        is_structure_file,
        read_structure_file,
        read_structure_lines,
    )
    from einsearch_cli.structures.einsum_notation import parse_size_list
    from einsearch_cli.structures.safe_yaml import MAX_BYTES

    size_list = parse_size_list(sizes) if sizes else None
    found: list[NamedStructure] = []
    for spec in map(shipped_path, specs):
        if spec == "-":
            if sys.stdin is not None and sys.stdin.isatty():
                raise SpecError("stdin is a terminal: there is nothing to read", remedy="einsearch classify monarch")
            text = console.read_stdin(MAX_BYTES)
            found += read_structure_lines(text, "stdin", block_diagonal=block_diagonal)
        elif is_structure_file(spec):
            found += read_structure_file(Path(spec), block_diagonal=block_diagonal)
        else:
            refuse_file_as_structure(spec)
            found.append(read_word(spec, size_list, block_diagonal))
    return found


def read_word(word: str, sizes: dict[str, str] | None = None, block_diagonal: bool = False) -> NamedStructure:
    """The structure that a word of a command line says; an error names the word as it was typed."""
    from einsearch_cli.structures import read_structure

    try:
        return read_structure(word, sizes, block_diagonal=block_diagonal)
    except StructureError as error:
        if repr(word) in error.problem:
            raise
        raise StructureError(f"structure {word[:80]!r}: {error.problem}", remedy=error.remedy) from error


def refuse_file_as_structure(word: str) -> None:
    """Raise an error for a word that is the name of a file but not a structure.

    Raises:
        SpecError: if it is; structures have names of their own, even where a file has the same.
    """
    from einsearch_cli.structures import parse_layer
    from einsearch_cli.structures.spec_file import refuse_other_file

    try:
        is_file = os.path.isfile(word)
    except ValueError:  # a NUL byte
        return
    if is_file:
        try:
            parse_layer(word)
        except StructureError:
            refuse_other_file(word)


def one_structure(spec: str, sizes: str | None, block_diagonal: bool = False) -> NamedStructure:
    """The structure that a word names, which may be a file or stdin with one structure."""
    found = read_structures([spec], sizes, block_diagonal)
    if len(found) != 1:
        raise SpecError(
            f"{spec} holds {len(found)} structures: one can be drawn at a time", remedy="give one of them, as text"
        )
    return found[0]


def dimensions(named: NamedStructure, d_in: int | None, d_out: int | None) -> tuple[int, int]:
    """The dimensions d_in and d_out: the given ones, those of the structure's own sizes, or 1024.

    Raises:
        SpecError: if they were given and are fixed to something else.
    """
    for name, given, fixed in (("--d-in", d_in, named.d_in), ("--d-out", d_out, named.d_out)):
        if given and fixed and given != fixed:
            raise SpecError(
                f"{name} {given}: the sizes of the equation multiply to {fixed}",
                remedy=f"leave {name} out, or write a size as rest or d/4 so that it can grow",
            )
    side_in = d_in if d_in is not None else named.d_in or DEFAULT_DIMENSION
    return side_in, d_out if d_out is not None else named.d_out or side_in
