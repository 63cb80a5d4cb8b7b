"""Encoding of text into a folder of token files: train.bin, val.bin and meta.json."""

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
from einsearch_cli.errors import DataError
from einsearch_cli.files import open_atomically, write_atomically

PIECE: Final = 1 << 16
"""The number of characters encoded at once, so that a tokenizer's lists stay in the processor's cache."""

_LINE_START = re.compile(r"(?<=\S\n)(?=\w)")


def write_token_folder(
    folder: Path,
    source: Source,
    tokenizer: Tokenizer,
    *,
    token_type: TokenType | None = None,
    key: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> TokenMeta:
    """Encode documents into train.bin and val.bin; meta.json is written last, so it marks a complete folder.

    Args:
        folder: exists; files of these names in it are replaced.
        source: the documents, read once. If they are separate, each is ended by the end-of-text token,
            or a line break when the tokenizer has none.
        tokenizer: encodes them.
        token_type: type of the integers; None takes the smallest that holds the vocabulary.
        key: noted in meta.json as the origin.
        progress: called with the share of the text that is done.

    Raises:
        DataError: a document cannot be read, or one of the two parts is empty.
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
        _refuse_empty(source, counts)
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


def _refuse_empty(source: Source, counts: list[int]) -> None:
    for part, count in zip(("training", "held-out"), counts, strict=True):
        if count == 0:
            raise DataError(
                f"the {part} part of {source.described} is empty: it has {source.characters:,} characters, "
                "too few to hold some of them out",
                remedy="give more text, or another held_out_fraction",
            )


def smallest_type(vocabulary: int) -> TokenType:
    """The smallest type that holds every token.

    >>> smallest_type(256), smallest_type(50_257), smallest_type(200_019)
    ('uint8', 'uint16', 'uint32')
    """
    return "uint8" if vocabulary <= 1 << 8 else "uint16" if vocabulary <= 1 << 16 else "uint32"


def encode_document(text: str, tokenizer: Tokenizer, separate: bool) -> Iterator[Tokens]:
    """The tokens of a document, piece by piece, followed by the separator where one is needed."""
    for piece in split_for_tokenizer(text, PIECE):
        yield tokenizer.encode(piece)
    if not separate or not text:
        return
    if tokenizer.end_of_text is not None:
        yield np.array([tokenizer.end_of_text], dtype=np.uint32)
    elif not text.endswith("\n"):
        yield tokenizer.encode("\n")


def split_for_tokenizer(text: str, size: int) -> Iterator[str]:
    """Cut a text into parts of at least `size` characters, where a line begins with a letter or digit.

    The words of tiktoken's and GPT-2's patterns end at such a place, so the tokens are those of the whole text. They do
    not end behind an empty line, as GPT-2 splits a run of white space before its last character.

    >>> list(split_for_tokenizer("ab\\n cd\\nef\\n\\ngh\\nij", size=3))
    ['ab\\n cd\\n', 'ef\\n\\ngh\\n', 'ij']
    """
    start = 0
    while start < len(text):
        cut = _LINE_START.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
