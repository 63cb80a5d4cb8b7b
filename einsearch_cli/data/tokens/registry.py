"""The available tokenizers, found by their name or their description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from einsearch_cli.data.tokens.encoding import PIECE, split_for_tokenizer
from einsearch_cli.data.tokens.settings import check_tokenizer
from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer, TiktokenTokenizer
from einsearch_cli.data.tokens.tokenizers import BytesTokenizer, CharacterTokenizer, Tokenizer
from einsearch_cli.errors import DataError

_KINDS: Final[Sequence[type[Tokenizer]]] = (BytesTokenizer, CharacterTokenizer, TiktokenTokenizer, HuggingFaceTokenizer)


@dataclass(frozen=True)
class LearnedTokenizer:
    """A tokenizer that is trained on the training part of a text."""

    identity: str
    """Text that identifies everything that the tokenizer depends on except the text."""
    of: Callable[[Iterable[str]], Tokenizer]


def learned_tokenizer(name: str) -> LearnedTokenizer | None:
    """The learned tokenizer of this name, `characters` or `bpe:N`; None for a tokenizer that needs no text.

    >>> learned_tokenizer("characters").of(["abba"]).vocabulary
    3
    """
    if name == "characters":
        return LearnedTokenizer(name, CharacterTokenizer.of)
    kind, _, number = name.partition(":")
    if kind != "bpe":
        return None
    check_tokenizer(name)
    size = int(number)
    version = HuggingFaceTokenizer.package_version()
    return LearnedTokenizer(f"bpe:{size} of tokenizers {version}", partial(_byte_pairs, size=size))


def _byte_pairs(texts: Iterable[str], size: int) -> Tokenizer:
    return HuggingFaceTokenizer.train((piece for text in texts for piece in split_for_tokenizer(text, PIECE)), size)


def open_tokenizer(name: str) -> Tokenizer:
    """Open a tokenizer by the name that settings give; learned tokenizers are refused.

    Raises:
        DataError: no such tokenizer, or it is not available.
    """
    check_tokenizer(name)
    kind, _, argument = name.partition(":")
    if name == "bytes":
        return BytesTokenizer()
    if learned_tokenizer(name) is not None:
        raise DataError(
            f"tokenizer {name} is made from the training text, and here it is not read",
            remedy=f"give another tokenizer, or write token files with `einsearch tokenize --tokenizer {name}`",
        )
    return TiktokenTokenizer.open(argument) if kind == "tiktoken" else HuggingFaceTokenizer.open(Path(argument))


def tokenizer_from_json(values: Mapping[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from what `Tokenizer.to_json` wrote into a checkpoint or meta.json.

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
