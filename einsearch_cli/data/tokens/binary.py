"""Files of raw tokens, as nanoGPT writes them, and the meta.json that describes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from einsearch_cli.cache import cached_for_files
from einsearch_cli.data.tokens.block_sampler import TokenArray
from einsearch_cli.data.tokens.settings import MAX_VOCABULARY, TokenType
from einsearch_cli.errors import DataError
from einsearch_cli.settings import SettingError, Settings, Whole, read_settings

TRAINING_FILE: Final = "train.bin"
HELD_OUT_FILE: Final = "val.bin"
META_FILE: Final = "meta.json"
CHUNK_BYTES: Final = 1 << 22
"""Bytes read at once while scanning: 4 MiB stay in the processor's cache, so the second pass over them costs little."""

DTYPES: Final[dict[TokenType, np.dtype[Any]]] = {
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}


class TokenMeta(Settings):
    """The contents of meta.json about the token files next to it; only `vocabulary` is required."""

    vocabulary: Whole = Field(ge=2, le=MAX_VOCABULARY)
    """Number of distinct tokens."""

    token_type: TokenType | None = None
    """Type of the integers; uint16 unless given."""

    training_tokens: Whole | None = Field(default=None, ge=0)
    """Tokens of train.bin."""

    held_out_tokens: Whole | None = Field(default=None, ge=0)
    """Tokens of val.bin."""

    tokenizer: dict[str, Any] | None = None
    """The tokenizer, as its `to_json` gives it."""

    key: str | None = None
    """A key of what the files were made from; used in the cache folder."""


def read_meta(folder: Path) -> TokenMeta | None:
    """The folder's meta.json; None when there is none."""
    path = folder / META_FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy="check its permissions") from error
    needed = 'give at least {"vocabulary": N}; known keys are ' + ", ".join(TokenMeta.model_fields)
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise DataError(f"{path} holds {json.dumps(found)[:40]}: a mapping of keys is needed", remedy=needed)
        return read_settings(TokenMeta, found)
    except SettingError as error:
        raise DataError(f"{path}: {error.problem}", remedy=needed) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", remedy='give at least {"vocabulary": N}') from None


def map_tokens(path: Path, token_type: TokenType) -> TokenArray:
    """Map the tokens of a file, (length,), which are read from disk when they are accessed.

    Raises:
        DataError: no such file, empty, not readable, or not a whole number of tokens.
    """
    dtype = DTYPES[token_type]
    try:
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise DataError(
                f"{path} has {size:,} bytes: tokens of type {token_type} take {dtype.itemsize} bytes each",
                remedy="copy it again if it was cut off, or give the type it was written in as token_type",
            )
        if size == 0:
            raise DataError(
                f"{path} is empty: there are no tokens in it", remedy="write it again, e.g. with `einsearch tokenize`"
            )
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise DataError(
            f"token file {path} cannot be read: {error.strerror}", remedy="give a .bin file, or a folder with train.bin"
        ) from error


@dataclass(frozen=True)
class Scan:
    """The digest and the range of a token file."""

    sha256: str
    smallest: int
    largest: int


def scan(path: Path, tokens: TokenArray, cache_folder: Path) -> Scan:
    """Digest and range of a token file; cached as long as the file stays unchanged."""

    def compute() -> dict[str, Any]:
        digest = hashlib.sha256()
        smallest, largest = int(tokens[0]), int(tokens[0])
        length = CHUNK_BYTES // tokens.itemsize
        for start in range(0, len(tokens), length):
            chunk = np.ascontiguousarray(tokens[start : start + length])
            digest.update(chunk.data)
            smallest, largest = min(smallest, int(chunk.min())), max(largest, int(chunk.max()))
        return {"sha256": digest.hexdigest(), "smallest": smallest, "largest": largest}

    found = cached_for_files(cache_folder, f"scan1-{tokens.itemsize}", [path], compute)
    return Scan(str(found["sha256"]), int(found["smallest"]), int(found["largest"]))


def first_at_least(tokens: TokenArray, limit: int) -> int:
    """The place of the first token that is not below `limit`.

    >>> first_at_least(np.array([3, 9, 4], dtype=np.uint16), 9)
    1
    """
    length = CHUNK_BYTES // tokens.itemsize
    for start in range(0, len(tokens), length):
        beyond = np.flatnonzero(tokens[start : start + length] >= limit)
        if len(beyond):
            return start + int(beyond[0])
    raise AssertionError(f"no token reaches {limit}")


def refuse_beyond(path: Path, tokens: TokenArray, found: Scan, vocabulary: int) -> None:
    """Raise DataError for tokens that the vocabulary does not have."""
    if found.largest < vocabulary:
        return
    place = first_at_least(tokens, vocabulary)
    raise DataError(
        f"{path}: token {int(tokens[place]):,} at offset {place:,} (byte {place * tokens.itemsize:,}): "
        f"a vocabulary of {vocabulary:,} ends at {vocabulary - 1:,}; the largest token is {found.largest:,}",
        remedy=f"give vocabulary: {found.largest + 1} or more, or the right token_type "
        f"(read as uint{8 * tokens.itemsize})",
    )
