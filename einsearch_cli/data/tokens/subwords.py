"""Tokenizers of other packages: tiktoken's encodings and Hugging Face's tokenizer.json."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from einsearch_cli.data.tokens.tokenizers import Tokenizer, Tokens
from einsearch_cli.errors import DataError
from einsearch_cli.lazy import optional_package

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

GPT2_PATTERN: Final = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""The pattern by which GPT-2 cuts text into words before merging (Radford et al. 2019, section 2.2), for merge tables.
"""

END_OF_TEXT: Final = "<|endoftext|>"

_END_NAMES: Final = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>", "[SEP]")


class TiktokenTokenizer(Tokenizer):
    """An encoding of tiktoken. Special tokens in a text are read as text."""

    kind = "tiktoken"

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    @property
    def vocabulary(self) -> int:
        """One more than the largest token."""
        return self._encoding.n_vocab

    @property
    def end_of_text(self) -> int | None:
        """The token of `<|endoftext|>`."""
        return self._encoding._special_tokens.get(END_OF_TEXT)

    def encode(self, text: str) -> Tokens:
        """Encode a text into tokens, uint32."""
        text = text.encode("utf-8", errors="replace").decode("utf-8")  # the package would drop lone surrogates
        return np.asarray(self._encoding.encode_to_numpy(text, disallowed_special=()), dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; the replacement character for numbers that are not tokens."""
        parts = []
        for token in tokens:
            try:
                parts.append(self._encoding.decode_single_token_bytes(token))
            except KeyError:
                parts.append(b"\xff")
        return b"".join(parts).decode("utf-8", errors="replace")

    def to_json(self) -> dict[str, Any]:
        """The pattern, merge ranks and special tokens; about 1 MB for GPT-2."""
        encoding = self._encoding
        ranks = {base64.b64encode(word).decode(): rank for word, rank in encoding._mergeable_ranks.items()}
        return {
            "kind": self.kind,
            "name": encoding.name,
            "pattern": encoding._pat_str,
            "ranks": ranks,
            "special_tokens": dict(encoding._special_tokens),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TiktokenTokenizer:
        """Build the tokenizer from a pattern, merge ranks and special tokens."""
        ranks = {base64.b64decode(word, validate=True): int(rank) for word, rank in values["ranks"].items()}
        special = {str(word): int(token) for word, token in values["special_tokens"].items()}
        return cls(_encoding(str(values["name"]), str(values["pattern"]), ranks, special))

    @classmethod
    def open(cls, name: str) -> TiktokenTokenizer:
        """Open an encoding by its name (gpt2, cl100k_base, …), or a merge table by its path, which ends in .tiktoken.

        With a merge table, text is cut into words as by GPT-2, and `<|endoftext|>` gets the token after the last.
        """
        tiktoken = _package("tiktoken")
        known = tiktoken.list_encoding_names()
        if name.endswith(".tiktoken"):
            _refuse_other_pattern(Path(name), known)
            ranks = _read_merges(Path(name))
            return cls(_encoding(Path(name).stem, GPT2_PATTERN, ranks, {END_OF_TEXT: max(ranks.values()) + 1}))
        if name not in known:
            raise DataError(
                f"tiktoken has no encoding {name!r}",
                remedy=f"use one of: {', '.join(sorted(known))}; or the path of a merge table, FILE.tiktoken",
            )
        try:
            return cls(tiktoken.get_encoding(name))
        except Exception as error:  # errors of requests, urllib3 and tiktoken, depending on the version
            raise DataError(
                f"the merge table of tiktoken's {name!r} cannot be fetched: {type(error).__name__}",
                remedy="run it once with a network, set TIKTOKEN_CACHE_DIR to a folder that has the table, "
                "or use huggingface:FILE with a local tokenizer.json",
            ) from error


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json of Hugging Face's `tokenizers`. No tokens are added at the ends of a text."""

    kind = "huggingface"

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A file can ask for texts to be truncated or padded to one length; neither makes sense for a corpus.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def vocabulary(self) -> int:
        """One more than the largest token, added ones included."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def end_of_text(self) -> int | None:
        """The end-of-text token: the first known one of a list of usual names such as `<|endoftext|>` and `</s>`."""
        found = (self._tokenizer.token_to_id(name) for name in _END_NAMES)
        return next((token for token in found if token is not None), None)

    def encode(self, text: str) -> Tokens:
        """Encode a text into tokens, uint32."""
        text = text.encode("utf-8", errors="replace").decode("utf-8")  # the package refuses lone surrogates
        # The batch method skips the position of each token, which takes a third of the time.
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoded.ids, dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, special ones included; numbers that are not tokens are left out."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))

    def unknown(self, text: str) -> str:
        """The characters that become the model's unknown token, if it has one."""
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        number = None if unknown is None else self._tokenizer.token_to_id(unknown)
        return "".join(character for character in dict.fromkeys(text) if number in self.encode(character).tolist())

    def to_json(self) -> dict[str, Any]:
        """The contents of its tokenizer.json."""
        return {"kind": self.kind, "tokenizer_json": self._tokenizer.to_str()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HuggingFaceTokenizer:
        """Build the tokenizer from the contents of a tokenizer.json."""
        return cls(_parse(_package("tokenizers"), str(values["tokenizer_json"])))

    @staticmethod
    def package_version() -> str:
        """The version of the package `tokenizers`, on which the result of `train` may depend."""
        return str(_package("tokenizers").__version__)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> HuggingFaceTokenizer:
        """Train byte-pair encoding on texts, over bytes and within GPT-2's words.

        Tokens are the 256 bytes, then merges of two tokens, the most frequent first. The same texts give the same merges.

        Source: Sennrich et al. 2016 (arXiv 1508.07909).

        Args:
            texts: parts of a text, cut at ends of words.
            vocabulary: number of tokens, 256 or more; there are fewer when a text has no more to merge.
        """
        package = _package("tokenizers")
        words = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = words
        tokenizer.decoder = package.decoders.ByteLevel()
        alphabet = sorted(words.alphabet())
        trainer = package.trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def open(cls, path: Path) -> HuggingFaceTokenizer:
        """Open a tokenizer.json, or a folder that contains one."""
        package = _package("tokenizers")
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            return cls(_parse(package, file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DataError(
                f"tokenizer {file} cannot be read: {reason}",
                remedy="give a tokenizer.json by its path, e.g. from `hf download NAME tokenizer.json`",
            ) from error


def _parse(package: Any, text: str) -> tokenizers.Tokenizer:
    try:
        parsed: tokenizers.Tokenizer = package.Tokenizer.from_str(text)
        return parsed
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"not a tokenizer.json: {error}") from error


def _encoding(name: str, pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    made: tiktoken.Encoding = _package("tiktoken").Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return made


def _refuse_other_pattern(path: Path, known: list[str]) -> None:
    """Refuse tiktoken's own tables except gpt2 and r50k_base: the others split text into words unlike GPT-2."""
    name = path.stem
    if name in known and name not in ("gpt2", "r50k_base"):
        raise DataError(
            f"merge table {path} is that of tiktoken's {name!r}, which does not cut text into words as GPT-2 does",
            remedy=f"give tiktoken:{name}; without a network, TIKTOKEN_CACHE_DIR is where it looks for the table",
        )


def _read_merges(path: Path) -> dict[bytes, int]:
    """Read lines of a word in base64 and its rank."""
    remedy = "give a merge table: lines of a word in base64, a space, and its rank"
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"merge table {path} cannot be read: {error.strerror}", remedy=remedy) from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            word, rank = line.split()
            ranks[base64.b64decode(word, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(
                f"merge table {path}, line {number}: {line[:60]!r} is not a word and a rank", remedy=remedy
            ) from None
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise DataError(
            f"merge table {path} has no rank for byte 0x{missing:02x}: all 256 bytes need one", remedy=remedy
        )
    return ranks


def _package(name: str) -> Any:
    needs = f"this tokenizer needs the package {name}"
    return optional_package(name, needs, f"pip install 'einsearch[{name}]'", DataError)
