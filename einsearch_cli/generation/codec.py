"""Codecs between tokens and what a user writes and reads: text, or the numbers of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

from einsearch_cli.data.tokens import Tokenizer
from einsearch_cli.errors import PromptError

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextCodec:
    """Converts by a tokenizer.

    A character may be spread over several tokens, so an unfinished one at the end is held back.

    >>> from einsearch_cli.data.tokens import BytesTokenizer
    >>> codec = TextCodec(BytesTokenizer())
    >>> tokens = codec.read("né!")
    >>> [codec.write(tokens[:number], is_last=False) for number in (1, 2, 3, 4)]
    ['n', 'n', 'né', 'né!']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def read(self, text: str) -> list[int]:
        """Tokens of a text."""
        if unknown := self._tokenizer.unknown(text):
            named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:5])
            raise PromptError(
                f"{named}{', …' if len(unknown) > 5 else ''}: the model was trained without "
                f"{'this character' if len(unknown) == 1 else f'these {len(unknown)} characters'}",
                remedy="leave them out, or write them differently",
            )
        return [int(token) for token in self._tokenizer.encode(text)]

    def write(self, tokens: Sequence[int], is_last: bool) -> str:
        """The part of these tokens' text that later tokens cannot change; all of it if `is_last`.

        Each call decodes all tokens, because tokenizers treat the first token of a text differently.
        """
        text = self._tokenizer.decode(tokens)
        return text if is_last else text.rstrip(_BROKEN)


class IdCodec:
    """Converts tokens to their numbers, separated by spaces.

    >>> IdCodec().write(IdCodec().read("17 4"), is_last=True)
    '17 4'
    """

    def read(self, text: str) -> list[int]:
        """Tokens from numbers."""
        for word in text.split():
            if not (word.isascii() and word.isdecimal()):
                raise PromptError(
                    f"{word[:40]!r} is not a token id: ids are whole numbers with spaces between",
                    remedy="give for example '17 4 291'",
                )
        return [int(word) for word in text.split()]

    def write(self, tokens: Sequence[int], is_last: bool) -> str:  # noqa: ARG002
        """The numbers of all tokens, since later tokens never change them."""
        return " ".join(map(str, tokens))


PromptCodec = TextCodec | IdCodec
"""Reads a prompt, and writes tokens as they are generated."""
