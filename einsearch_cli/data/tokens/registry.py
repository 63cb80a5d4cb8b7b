"""The tokenizers there are, by name and by their description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer, TiktokenTokenizer
from einsearch_cli.data.tokens.tokenizers import BytesTokenizer, CharacterTokenizer, Tokenizer
from einsearch_cli.errors import DataError

_KINDS: Final[Sequence[type[Tokenizer]]] = (BytesTokenizer, CharacterTokenizer, TiktokenTokenizer, HuggingFaceTokenizer)


def open_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by the name that settings give; not `characters`, which is made from texts.

    Raises:
        DataError: no such tokenizer, or it cannot be had.
    """
    kind, _, argument = name.partition(":")
    if name == "bytes":
        return BytesTokenizer()
    if name == "characters":
        raise DataError(
            "the characters that are tokens are those of the training text, and here it is not read",
            remedy="give another tokenizer, or write token files with `einsearch tokenize --tokenizer characters`",
        )
    if kind == "tiktoken" and argument:
        return TiktokenTokenizer.open(argument)
    if kind == "huggingface" and argument:
        return HuggingFaceTokenizer.open(Path(argument))
    raise DataError(
        f"no tokenizer {name!r}",
        remedy="use bytes, characters, tiktoken:NAME, tiktoken:FILE.tiktoken or huggingface:FILE",
    )


def tokenizer_from_json(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_json` described, as checkpoints and meta.json carry it.

    Raises:
        DataError: no such kind, a part is missing or damaged, or its package is not installed.

    >>> tokenizer_from_json({"kind": "characters", "characters": "ab"}).decode([2, 1, 0])
    'ba�'
    """
    kind = {kind.kind: kind for kind in _KINDS}.get(str(values.get("kind")))
    if kind is None:
        raise DataError(
            f"no tokenizer is of kind {values.get('kind')!r}", remedy=f"use one of: {', '.join(k.kind for k in _KINDS)}"
        )
    try:
        return kind.from_json(values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the description of a tokenizer of kind {kind.kind!r} is damaged: {type(error).__name__}: {error}",
            remedy="write it again, e.g. with `einsearch tokenize`",
        ) from error
