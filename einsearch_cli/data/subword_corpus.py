"""Text as subwords, found in its training part by byte-pair encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from einsearch_cli.data.cache import Arrays, cached_arrays
from einsearch_cli.data.corpus import SplitText, read_split
from einsearch_cli.data.tokens.encoding import PIECE, pieces
from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer

Tokens = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class SubwordCorpus:
    """Text as subwords, split."""

    training: Tokens
    held_out: Tokens
    vocabulary: int
    """Distinct tokens; fewer than asked for when the text has no more to merge."""

    @property
    def sha256(self) -> str:
        """Over the training and held-out tokens, in that order."""
        digest = hashlib.sha256(f"{self.vocabulary} {len(self.training)}\n".encode())
        for tokens in (self.training, self.held_out):
            digest.update(np.ascontiguousarray(tokens, dtype="<u2").data)
        return digest.hexdigest()


def read_subwords(path: Path | None, held_out_fraction: float, vocabulary: int, cache_folder: Path) -> SubwordCorpus:
    """Read and split a text as `read_corpus` does, and encode it with a byte-pair encoding of its training part.

    The standard library's 11 million characters take 12 s of one core (AMD EPYC) the first time, for 1,024
    subwords; then they are kept in the cache folder, by text, vocabulary and version of the package.

    Args:
        path: a file, a folder, or None for the Python standard library's own source.
        held_out_fraction: part of the characters held out.
        vocabulary: subwords, 256 to 65,536.
        cache_folder: where the tokens are kept.

    Raises:
        DataError: the text cannot be read, see `read_corpus`; or the package tokenizers is missing.
        OutputError: the cache folder cannot be written.
    """
    text = read_split(path, held_out_fraction)
    key = {"text": text.sha256, "vocabulary": vocabulary, "tokenizers": HuggingFaceTokenizer.package_version()}
    found = cached_arrays(cache_folder, "subwords1", key, lambda: _encode(text, vocabulary))
    return SubwordCorpus(found["training"], found["held_out"], int(found["vocabulary"]))


def _encode(text: SplitText, vocabulary: int) -> Arrays:
    tokenizer = HuggingFaceTokenizer.train(pieces(text.training, PIECE), vocabulary)

    def tokens_of(part: str) -> Tokens:
        encoded = [tokenizer.encode(piece).astype(np.uint16) for piece in pieces(part, PIECE)]
        return np.concatenate([np.empty(0, np.uint16), *encoded])

    return {
        "training": tokens_of(text.training),
        "held_out": tokens_of(text.held_out),
        "vocabulary": np.array(tokenizer.vocabulary),
    }
