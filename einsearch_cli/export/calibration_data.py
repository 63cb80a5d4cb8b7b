"""Tokens for the calibration of a compression, from a text or from token files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from einsearch_cli.data.tokens import DataSettings, Tokenizer, open_tokens
from einsearch_cli.data.tokens.texts import read_text, text_files
from einsearch_cli.errors import DataError

_CHARACTERS = 16
"""Characters that are read for each token at most: no tokenizer has longer tokens on average."""
_ROW_TOKENS = 2048
"""Tokens of one pass of the model, unless a single row is longer."""


def calibration_batches(
    path: Path, tokenizer: Tokenizer | None, vocabulary: int, context: int, tokens: int
) -> list[Tensor]:
    """Rows of consecutive tokens, in batches (rows, context) of about 2,048 tokens.

    Args:
        path: a text file, a folder of text files, or a folder of token files (`einsearch tokenize`).
        tokenizer: the model's tokenizer; needed for text.
        vocabulary: number of tokens that the model knows.
        context: tokens in a row, if there are enough.
        tokens: most tokens of all rows together.

    Raises:
        DataError: if there is nothing to read, or the tokens are of another tokenizer.
    """
    found = _token_files(path, tokenizer, tokens) if _has_tokens(path) else _encoded(path, tokenizer, tokens)
    if len(found) == 0:
        raise DataError(f"{path} has no text to calibrate with", remedy="give a text file, or a folder of text files")
    if int(found.max()) >= vocabulary:
        raise DataError(
            f"token {int(found.max()):,} in {path}: the model knows {vocabulary:,} tokens",
            remedy="give text, or token files that were written with the tokenizer of the model",
        )
    context = min(context, len(found))
    rows = torch.from_numpy(found[: len(found) // context * context].astype(np.int64)).reshape(-1, context)
    return list(rows.split(max(1, _ROW_TOKENS // context)))


def _has_tokens(path: Path) -> bool:
    return path.suffix == ".bin" or (path / "train.bin").exists()


def _token_files(path: Path, tokenizer: Tokenizer | None, tokens: int) -> np.ndarray:
    data = open_tokens(DataSettings(tokens=path))
    if tokenizer is not None and data.tokenizer is not None and data.tokenizer.to_json() != tokenizer.to_json():
        raise DataError(
            f"the tokens in {path} were made by another tokenizer than the model's",
            remedy="give text, or encode it again with the tokenizer of the model",
        )
    return np.asarray(data.training[:tokens])  # type: ignore[index]


def _encoded(path: Path, tokenizer: Tokenizer | None, tokens: int) -> np.ndarray:
    """Encode texts one after another until there are enough tokens; every file of a folder gives an equal share."""
    if tokenizer is None:
        raise DataError(
            f"text {path} to calibrate with: the model's folder has no tokenizer.json to encode it",
            remedy="give a folder of token files, or put tokenizer.json next to the model's config.json",
        )
    parts: list[np.ndarray] = []
    for text in _texts(path, tokens * _CHARACTERS):
        parts.append(np.asarray(tokenizer.encode(text)))
        if sum(map(len, parts)) >= tokens:
            break
    return np.concatenate(parts)[:tokens] if parts else np.empty(0, dtype=np.int64)


def _texts(path: Path, characters: int) -> Iterator[str]:
    """The beginnings of all files, equally long if the files are long enough."""
    files = text_files(path)
    share = max(1000, characters // len(files))
    for file in files:
        yield read_text(file)[:share]
