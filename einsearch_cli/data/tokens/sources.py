"""Where documents come from before they are tokens: text files and Hugging Face datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from einsearch_cli.data.corpus import empty, read_text, split_end, split_files, text_files
from einsearch_cli.data.tokens.memory import remembered


class Document(NamedTuple):
    """A text, and whether it is held out."""

    text: str
    held_out: bool


@dataclass(frozen=True)
class Source:
    """Documents in their order, read anew each time."""

    described: str
    """In words."""

    digest: str
    """SHA-256 over the texts."""

    documents: Callable[[], Iterator[Document]]
    """Reads them."""

    separate: bool
    """Whether documents are apart from each other, so that something has to stand between them."""

    characters: int
    """Length of all texts together."""

    def training_texts(self) -> Iterator[str]:
        """The documents that are not held out."""
        return (document.text for document in self.documents() if not document.held_out)


def text_source(path: Path | None, held_out_fraction: float, cache: Path) -> Source:
    """A text file, a folder of them, or (None) the Python standard library's source.

    Only one file at a time is in memory.

    Raises:
        DataError: nothing there, not readable, not UTF-8 or empty.
    """
    files = text_files(path)
    known = remembered(cache, "text1", files, lambda: _survey(files))
    lengths = [int(length) for length in known["lengths"]]
    if not any(lengths):
        raise empty(path)

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


def key_of(source: Source, tokenizer: object, held_out_fraction: float) -> str:
    """SHA-256 over everything that token files made from a source depend on."""
    parts = {"text": source.digest, "tokenizer": tokenizer, "held_out_fraction": held_out_fraction, "format": 1}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
