"""Sources of documents before they become tokens: text files and Hugging Face datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Document(NamedTuple):
    """A text, and whether it is held out."""

    text: str
    held_out: bool


@dataclass(frozen=True)
class Source:
    """Documents in their order, read from disk each time."""

    described: str
    """A short description of the source, for messages."""

    digest: str
    """SHA-256 over the texts."""

    documents: Callable[[], Iterator[Document]]
    """A function that reads the documents."""

    separate: bool
    """Whether documents are separate, so that a separator has to stand between them."""

    characters: int
    """Length of all texts together."""

    def training_texts(self) -> Iterator[str]:
        """The documents that are not held out."""
        return (document.text for document in self.documents() if not document.held_out)


def key_of(source: Source, tokenizer: object, held_out_fraction: float) -> str:
    """SHA-256 over everything on which token files made from a source depend."""
    parts = {"text": source.digest, "tokenizer": tokenizer, "held_out_fraction": held_out_fraction, "format": 1}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
