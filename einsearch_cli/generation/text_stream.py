"""Text of tokens that come one by one."""

from __future__ import annotations

from einsearch_cli.data.tokens import Tokenizer

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Gives the text of a token as soon as it is certain.

    A character may be spread over several tokens: what ends in an unfinished one is held back. All
    tokens are decoded anew each time, as tokenizers treat the first token of a text in its own way.

    >>> from einsearch_cli.data.tokens import BytesTokenizer
    >>> stream = TextStream(BytesTokenizer())
    >>> [stream.add(byte) for byte in "né!".encode()], stream.rest()
    (['n', '', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._given = ""

    def add(self, token: int) -> str:
        """The text that is certain with this token and was not before."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        return "" if text.endswith(_BROKEN) else self._new(text)

    def rest(self) -> str:
        """What was held back."""
        return self._new(self._tokenizer.decode(self._tokens))

    def _new(self, text: str) -> str:
        new = text[len(self._given) :]
        self._given = text
        return new
