"""Tokenizers: bytes, characters, and the interface that tiktoken's and Hugging Face's tokenizers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]

UNKNOWN: Final = "\N{REPLACEMENT CHARACTER}"
MAX_CHARACTERS: Final = (1 << 16) - 1
"""The most characters with a token of their own, so that tokens fit two bytes."""


class Tokenizer(ABC):
    """Turns text into tokens and back.

    Contract:
        - `encode` gives unsigned integers below `vocabulary`; the empty text gives none, a lone surrogate counts as "?".
        - `decode(encode(text)) == text` except for characters that the tokenizer does not know.
        - `tokenizer_from_json(tokenizer.to_json())` is an equal tokenizer and needs no file and no network.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of distinct tokens."""

    @property
    def end_of_text(self) -> int | None:
        """The token between two documents; None if the tokenizer has none."""
        return None

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Encode a text into tokens, (length,)."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; the replacement character stands for anything that is not text."""

    def unknown(self, text: str) -> str:
        """The characters of a text that the tokenizer does not know, each once, in order."""
        return "".join(
            character
            for character in dict.fromkeys(text)
            if UNKNOWN in self.decode(self.encode(character)) and character != UNKNOWN
        )

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that defines the tokenizer, as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tokenizer:
        """Rebuild the tokenizer from what `to_json` wrote."""


class BytesTokenizer(Tokenizer):
    """One token for each byte of the text in UTF-8.

    >>> BytesTokenizer().encode("é").tolist()
    [195, 169]
    """

    kind = "bytes"

    @property
    def vocabulary(self) -> int:
        """The number of bytes, 256."""
        return 256

    def encode(self, text: str) -> Tokens:
        """Encode a text into its bytes, uint8."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of bytes; a token that is not a byte counts as broken UTF-8."""
        return bytes(token if 0 <= token < 256 else 0xFF for token in tokens).decode("utf-8", errors="replace")

    def to_json(self) -> dict[str, Any]:
        """The kind of the tokenizer, which defines it completely."""
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BytesTokenizer:  # noqa: ARG003
        """Return the bytes tokenizer; there is only one."""
        return cls()


class CharacterTokenizer(Tokenizer):
    """One token for each character; token 0 is every character it does not know.

    Args:
        characters: token i + 1 is `characters[i]`.

    >>> tokenizer = CharacterTokenizer.of(["banana"])
    >>> tokenizer.encode("bandana").tolist(), tokenizer.vocabulary
    ([3, 1, 2, 0, 1, 2, 1], 4)
    """

    kind = "characters"

    def __init__(self, characters: str) -> None:
        self._characters = characters
        self._table = np.zeros(0x110000, dtype=np.uint8 if len(characters) < 256 else np.uint16)
        self._table[[ord(character) for character in characters]] = np.arange(1, len(characters) + 1)

    @classmethod
    def of(cls, texts: Iterable[str]) -> CharacterTokenizer:
        """Take the characters of texts, most frequent first, equally frequent ones by code point; at most 65,535."""
        counts = np.zeros(0x110000, dtype=np.int64)
        for text in texts:
            found = np.bincount(code_points_of(text))
            counts[: len(found)] += found
        return cls(most_frequent(counts))

    @property
    def vocabulary(self) -> int:
        """The number of known characters, plus one for all others."""
        return len(self._characters) + 1

    def encode(self, text: str) -> Tokens:
        """Encode a text into tokens, uint8 if they fit, else uint16."""
        return self._table[code_points_of(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; the replacement character for the unknown one."""
        known = self._characters
        return "".join(known[token - 1] if 0 < token <= len(known) else UNKNOWN for token in tokens)

    def to_json(self) -> dict[str, Any]:
        """The characters in the order of their tokens."""
        return {"kind": self.kind, "characters": self._characters}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CharacterTokenizer:
        """Build the tokenizer from characters in the order of their tokens."""
        return cls(str(values["characters"]))


def code_points_of(text: str) -> npt.NDArray[np.uint32]:
    """The code point of every character.

    >>> code_points_of("aé").tolist()
    [97, 233]
    """
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")  # a lone surrogate becomes "?"


def most_frequent(counts: npt.NDArray[np.int64], limit: int = MAX_CHARACTERS) -> str:
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
