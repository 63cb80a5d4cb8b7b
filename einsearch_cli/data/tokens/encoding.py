"""Text to token files: train.bin, val.bin and meta.json in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from einsearch_cli.data.tokens.binary import DTYPES, HELD_OUT_FILE, META_FILE, TRAINING_FILE, TokenMeta
from einsearch_cli.data.tokens.settings import TokenType
from einsearch_cli.data.tokens.sources import Source
from einsearch_cli.data.tokens.tokenizers import Tokenizer, Tokens
from einsearch_cli.files import open_atomically, write_atomically

PIECE: Final = 1 << 20
"""Characters encoded at once: a tokenizer's lists take tens of bytes for each."""

_LINE_START = re.compile(r"(?<=\n)(?=\S)")

Progress = Callable[[float], None]
"""Told the share of the text that is done, 0 to 1."""


def write_token_folder(
    folder: Path,
    source: Source,
    tokenizer: Tokenizer,
    *,
    token_type: TokenType | None = None,
    key: str | None = None,
    progress: Progress | None = None,
) -> TokenMeta:
    """Encode documents into train.bin and val.bin; meta.json comes last, so with it the folder is complete.

    Args:
        folder: exists; files of these names in it are replaced.
        source: its documents, read once. When they are apart from each other, each is ended by the end-of-text token,
            or a line break when the tokenizer has none.
        tokenizer: encodes them.
        token_type: of the integers; the smallest that holds the vocabulary when None.
        key: what to note in meta.json as the origin.
        progress: told which share of the text is done.

    Raises:
        OutputError: the files cannot be written; none of them is left half-written.
    """
    token_type = token_type or smallest_type(tokenizer.vocabulary)
    counts = [0, 0]
    done = 0
    (folder / META_FILE).unlink(missing_ok=True)
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomically(folder / name)) for name in (TRAINING_FILE, HELD_OUT_FILE)]
        for document in source.documents():
            for tokens in encode_document(document.text, tokenizer, source.separate):
                files[document.held_out].write(tokens.astype(DTYPES[token_type]).data)
                counts[document.held_out] += len(tokens)
            done += len(document.text)
            if progress is not None:
                progress(done / source.characters)
    meta = TokenMeta(
        vocabulary=tokenizer.vocabulary,
        token_type=token_type,
        training_tokens=counts[0],
        held_out_tokens=counts[1],
        tokenizer=tokenizer.to_json(),
        key=key,
    )
    write_atomically(folder / META_FILE, json.dumps(meta.model_dump(exclude_none=True), indent=1) + "\n")
    return meta


def smallest_type(vocabulary: int) -> TokenType:
    """The smallest type that holds every token.

    >>> smallest_type(256), smallest_type(50_257), smallest_type(200_019)
    ('uint8', 'uint16', 'uint32')
    """
    return "uint8" if vocabulary <= 1 << 8 else "uint16" if vocabulary <= 1 << 16 else "uint32"


def encode_document(text: str, tokenizer: Tokenizer, separate: bool) -> Iterator[Tokens]:
    """Tokens of a document, piece by piece, and of what ends it when something has to."""
    for piece in pieces(text):
        yield tokenizer.encode(piece)
    if not separate or not text:
        return
    if tokenizer.end_of_text is not None:
        yield np.array([tokenizer.end_of_text], dtype=np.uint32)
    elif not text.endswith("\n"):
        yield tokenizer.encode("\n")


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """A text in parts of at least `size` characters, each but the first beginning a line that is not indented.

    Byte-pair tokenizers cut there in any case, so the tokens are those of the whole text.

    >>> list(pieces("ab\\n cd\\nef\\ngh", size=3))
    ['ab\\n cd\\n', 'ef\\n', 'gh']
    """
    start = 0
    while start < len(text):
        cut = _LINE_START.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
