"""Where documents come from before they are tokens: text files and Hugging Face datasets."""

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
    """Documents in their order, read again each time."""

    described: str
    """What the source is, in words."""

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


def key_of(source: Source, tokenizer: object, held_out_fraction: float) -> str:
    """SHA-256 over everything that token files made from a source depend on."""
    parts = {"text": source.digest, "tokenizer": tokenizer, "held_out_fraction": held_out_fraction, "format": 1}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
