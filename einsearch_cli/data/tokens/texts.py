"""Text from files: finding, reading and splitting it."""

from __future__ import annotations

import hashlib
import os
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from einsearch_cli.cache import cached_for_files
from einsearch_cli.data.tokens.sources import Document, Source
from einsearch_cli.errors import DataError

TEXT_SUFFIXES: Final = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".json"})
"""Suffixes of the files of a folder that count as text; a single file may have any name."""

_LIBRARY_SKIPS: Final = frozenset(
    {"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "_bundled"}
)
_SHUFFLE_SEED: Final = 0


def text_source(path: Path | None, held_out_fraction: float, cache: Path) -> Source:
    """A text file, a folder of text files, or (None) the Python standard library's source.

    Only one file at a time is in memory.
    """
    files = text_files(path)
    known = cached_for_files(cache, "text1", files, lambda: _survey(files))
    lengths = [int(length) for length in known["lengths"]]
    if not any(lengths):
        raise DataError(f"text {path} is empty: there is no text to train on", remedy="give a file or folder with text")

    def documents() -> Iterator[Document]:
        if len(files) == 1:
            training, held_out = split_end(read_text(files[0]), held_out_fraction)
            yield Document(training, False)
            yield Document(held_out, True)
            return
        for places, are_held_out in zip(split_files(lengths, held_out_fraction), (False, True), strict=True):
            for place in places:
                yield Document(read_text(files[place]), are_held_out)

    described = "the Python library's source" if path is None else f"text {path}"
    return Source(described, str(known["sha256"]), documents, len(files) > 1, sum(lengths))


def _survey(files: list[Path]) -> dict[str, Any]:
    digest = hashlib.sha256()
    lengths = []
    for file in files:
        text = read_text(file)
        digest.update(hashlib.sha256(text.encode()).digest())
        lengths.append(len(text))
    return {"sha256": digest.hexdigest(), "lengths": lengths}


def text_files(path: Path | None) -> list[Path]:
    """The files of a text, sorted by path: one file, those of a folder by suffix, or (None) the standard library's."""
    return _standard_library() if path is None else _files(path)


def read_text(file: Path) -> str:
    """The contents of a file."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"text {file} cannot be read: {error.strerror}", remedy="check its permissions") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text {file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} ({error.reason})",
            remedy=f"convert it, e.g. iconv -f latin1 -t utf-8 {file.name}, or leave it out",
        ) from None


def split_files(lengths: list[int], fraction: float) -> tuple[list[int], list[int]]:
    """Split several texts into those to train on and those to hold out, in the order in which they are joined.

    The texts are shuffled, always in the same way, and held out from the end until they make up the fraction.

    >>> split_files([10] * 4, 0.25)
    ([3, 1, 0], [2])
    """
    shuffled = random.Random(_SHUFFLE_SEED).sample(range(len(lengths)), len(lengths))
    wanted = fraction * sum(lengths)
    held_out: list[int] = []
    while len(shuffled) > 1 and sum(lengths[place] for place in held_out) < wanted:
        held_out.insert(0, shuffled.pop())
    return shuffled, held_out


def split_end(text: str, fraction: float) -> tuple[str, str]:
    """Split a single text into its beginning and its end, which is held out.

    >>> split_end("abcdefghij", 0.2)
    ('abcdefgh', 'ij')
    """
    cut = len(text) - round(fraction * len(text))
    return text[:cut], text[cut:]


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    files = _walk(root, frozenset({".py"}), skip=lambda folder: folder in _LIBRARY_SKIPS)
    if not files:
        raise DataError(
            f"no .py file under {root}, where this Python says its library is", remedy="give a text by path"
        )
    return files


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        what = "does not exist" if not path.exists() else "is neither a file nor a folder"
        raise DataError(f"text {path} {what}", remedy="give the path of a text file or of a folder with text files")
    files = _walk(path, TEXT_SUFFIXES, skip=lambda folder: folder.startswith((".", "__")))
    if not files:
        raise DataError(
            f"folder {path} has no text files: none ends in {', '.join(sorted(TEXT_SUFFIXES))}",
            remedy="give a folder with such files, or a single file of any name",
        )
    return files


def _walk(root: Path, suffixes: frozenset[str], skip: Callable[[str], bool]) -> list[Path]:
    """The files under `root` with a suffix, in the order of their paths; folders to skip are not entered."""
    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not skip(name)]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in suffixes]
    return sorted(path for path in found if path.is_file())
