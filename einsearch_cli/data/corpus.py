"""Text from files: reading it, holding some out, and turning characters into tokens."""

from __future__ import annotations

import hashlib
import os
import random
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from einsearch_cli.errors import DataError

Tokens = npt.NDArray[np.uint8]

TEXT_SUFFIXES: Final = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".json"})
"""Files of a folder that count as text; a single file may have any name."""

MAX_BYTES: Final = 1 << 28
"""Largest corpus, 256 MiB: every worker process holds one."""

VOCABULARY: Final = 127
"""Most characters with a token of their own; all others share token 0."""

_LIBRARY_SKIPS: Final = frozenset(
    {"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "_bundled"}
)
_SHUFFLE_SEED: Final = 0


@dataclass(frozen=True)
class SplitText:
    """Text to train on, and text that is held out."""

    training: str
    held_out: str

    @property
    def sha256(self) -> str:
        """Over both parts, in this order."""
        return hashlib.sha256(f"{len(self.training)}\n{self.training}{self.held_out}".encode()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """Text as characters, split.

    Token 0 is every character outside `characters`; token i + 1 is `characters[i]`.
    """

    training: Tokens
    held_out: Tokens
    characters: str
    sha256: str
    """Over the training and held-out text, in that order."""

    @property
    def vocabulary(self) -> int:
        """Distinct tokens, the unknown one included."""
        return len(self.characters) + 1


def read_corpus(path: Path | None, held_out_fraction: float) -> Corpus:
    """Read, split and encode a file, a folder, or (None) the Python standard library's own source.

    A folder's files are shuffled, always alike, and whole files from the end are held out until they make
    up the fraction; of a single file its end is held out. The vocabulary is taken from the training part.

    Raises:
        DataError: nothing there, not readable, not UTF-8, empty, or too large.
    """
    text = read_split(path, held_out_fraction)
    training_points, held_out_points = code_points_of(text.training), code_points_of(text.held_out)
    characters = most_frequent(np.bincount(training_points))
    return Corpus(
        training=encode(training_points, characters),
        held_out=encode(held_out_points, characters),
        characters=characters,
        sha256=text.sha256,
    )


def read_split(path: Path | None, held_out_fraction: float) -> SplitText:
    """Read and split a text, as `read_corpus` does, without encoding it.

    Raises:
        DataError: as there.
    """
    texts = _read_all(text_files(path))
    if not any(texts):
        raise empty(path)
    return SplitText(*_split(texts, held_out_fraction))


def text_files(path: Path | None) -> list[Path]:
    """The files of a text: itself, those of a folder by suffix, or (None) the Python standard library's, by path.

    Raises:
        DataError: nothing there, or no text files.
    """
    return _standard_library() if path is None else _files(path)


def read_text(file: Path) -> str:
    """What a file contains.

    Raises:
        DataError: not readable, or not UTF-8.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"text {file} cannot be read: {error.strerror}", remedy="check its permissions") from error
    return _decode(file, raw)


def empty(path: Path | None) -> DataError:
    """The refusal of texts without a character."""
    return DataError(f"text {path} is empty: there is no text to train on", remedy="give a file or folder with text")


def split_files(lengths: list[int], fraction: float) -> tuple[list[int], list[int]]:
    """Which of several texts to train on, and which to hold out, in the order in which they are joined.

    They are shuffled, always alike, and held out from the end until those make up the fraction.

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
    """A single text without its end, and its end, which is held out.

    >>> split_end("abcdefghij", 0.2)
    ('abcdefgh', 'ij')
    """
    cut = len(text) - round(fraction * len(text))
    return text[:cut], text[cut:]


def code_points_of(text: str) -> npt.NDArray[np.uint32]:
    """Number of every character.

    >>> code_points_of("aé").tolist()
    [97, 233]
    """
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")  # a lone surrogate becomes "?"


def most_frequent(counts: npt.NDArray[np.int64], limit: int = VOCABULARY) -> str:
    """The at most `limit` characters that get a token, most frequent first; equally frequent ones by code point.

    Args:
        counts: how often each code point occurs.
        limit: most characters.

    >>> most_frequent(np.bincount(code_points_of("baac")))
    'abc'
    """
    present = np.flatnonzero(counts)
    ordered = present[np.lexsort((present, -counts[present]))]
    return "".join(map(chr, ordered[:limit]))


def encode(code_points: npt.NDArray[np.uint32], characters: str) -> Tokens:
    """Token of every code point.

    >>> encode(np.array([98, 122], dtype=np.uint32), "ab").tolist()
    [2, 0]
    """
    table = np.zeros(0x110000, dtype=np.uint8)
    table[[ord(character) for character in characters]] = np.arange(1, len(characters) + 1)
    return table[code_points]


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
    """Files under `root` by suffix, in the order of their paths, without entering folders to skip."""
    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not skip(name)]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in suffixes]
    return sorted(path for path in found if path.is_file())


def _read_all(files: list[Path]) -> list[str]:
    texts: list[str] = []
    size = 0
    for file in files:
        try:
            size += file.stat().st_size
        except OSError as error:
            raise DataError(f"text {file} cannot be read: {error.strerror}", remedy="check its permissions") from error
        if size > MAX_BYTES:
            raise DataError(
                f"the text is larger than {MAX_BYTES >> 20} MiB (at {file}): every worker holds all of it",
                remedy="give a part of it",
            )
        texts.append(read_text(file))
    return texts


def _decode(file: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text {file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} ({error.reason})",
            remedy=f"convert it, e.g. iconv -f latin1 -t utf-8 {file.name}, or leave it out",
        ) from None


def _split(texts: list[str], fraction: float) -> tuple[str, str]:
    if len(texts) == 1:
        return split_end(texts[0], fraction)
    training, held_out = split_files(list(map(len, texts)), fraction)
    return "".join(texts[place] for place in training), "".join(texts[place] for place in held_out)
