"""The tokens of a training run, from wherever the settings say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from einsearch_cli.data.base import default_cache_folder
from einsearch_cli.data.corpus import read_texts, split, text_files
from einsearch_cli.data.tokens.binary import (
    DTYPES,
    HELD_OUT_FILE,
    META_FILE,
    TRAINING_FILE,
    Scan,
    TokenMeta,
    map_tokens,
    read_meta,
    refuse_beyond,
    scan,
)
from einsearch_cli.data.tokens.encoding import Document, Progress, write_token_folder
from einsearch_cli.data.tokens.memory import remembered
from einsearch_cli.data.tokens.sampling import BlockSampler, Sampler, TokenArray
from einsearch_cli.data.tokens.settings import DataSettings, TokenType
from einsearch_cli.data.tokens.tokenizers import BytesTokenizer, CharacterTokenizer, Tokenizer, tokenizer_from_json
from einsearch_cli.errors import DataError, OutputError

FORMAT: Final = 1
"""Number of the way texts are encoded; a change makes cached token files of before be written anew."""


@dataclass(frozen=True)
class TokenData:
    """Tokens to train on and held-out ones."""

    training: TokenArray
    """(length,) unsigned integers, memory-mapped."""

    held_out: TokenArray
    """(length,) unsigned integers, memory-mapped."""

    vocabulary: int
    """All tokens are below this number."""

    tokenizer: Tokenizer | None
    """What the tokens stand for, when that is known."""

    digest: str
    """SHA-256 over both parts; a checkpoint notes it to refuse another corpus."""

    described: str
    """Where the tokens come from, in words."""

    def sampler(self, *, block: int, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> Sampler:
        """Batches of the training part by the number of the step; arguments as in `BlockSampler`.

        Raises:
            DataError: a block and the token after it are longer than the corpus, or the rows do not divide.
        """
        return BlockSampler(self.training, block=block, batch=batch, seed=seed, rank=rank, world_size=world_size)


def open_tokens(
    settings: DataSettings, cache_folder: Path | None = None, progress: Progress | None = None
) -> TokenData:
    """Tokens of a run; text is encoded once and kept in the cache folder.

    Safe to call from several processes at once: one encodes, the others wait.

    Args:
        settings: where the tokens come from.
        cache_folder: for encoded text and digests; the user's cache folder when None.
        progress: told how many characters are encoded.

    Raises:
        DataError: nothing there, not readable, empty, of one token only, not the type it should be, or a token that
            the vocabulary does not have; a tokenizer that cannot be had.
        OutputError: the cache folder cannot be written.
    """
    cache = (default_cache_folder() if cache_folder is None else cache_folder) / "tokens"
    if settings.tokens is not None:
        return _open_token_files(settings.tokens, settings, cache)
    return _open_text(settings, cache, progress)


def open_tokenizer(name: str, training_texts: list[str]) -> Tokenizer:
    """A tokenizer by the name that settings give; `characters` takes its own from the training texts.

    Raises:
        DataError: no such tokenizer, or it cannot be had.
    """
    from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer, TiktokenTokenizer

    kind, _, argument = name.partition(":")
    if name == "bytes":
        return BytesTokenizer()
    if name == "characters":
        return CharacterTokenizer.of(training_texts)
    if kind == "tiktoken" and argument:
        return TiktokenTokenizer.open(argument)
    if kind == "huggingface" and argument:
        return HuggingFaceTokenizer.open(Path(argument))
    raise DataError(
        f"no tokenizer {name!r}",
        remedy="use bytes, characters, tiktoken:NAME, tiktoken:FILE.tiktoken or huggingface:FILE",
    )


def _open_text(settings: DataSettings, cache: Path, progress: Progress | None) -> TokenData:
    files = text_files(settings.text)
    name = settings.tokenizer or "bytes"
    text_digest = remembered(cache, "text1", files, lambda: {"sha256": _digest_of(files)})["sha256"]
    fixed = None if name == "characters" else open_tokenizer(name, [])
    key = {
        "format": FORMAT,
        "text": text_digest,
        "tokenizer": "characters" if fixed is None else fixed.to_json(),
        "held_out_fraction": settings.held_out_fraction,
    }

    def write(folder: Path, key: str) -> None:
        training, held_out = split(read_texts(files, settings.text), settings.held_out_fraction)
        documents = [Document(text, False) for text in training] + [Document(text, True) for text in held_out]
        tokenizer = fixed or open_tokenizer(name, training)
        write_token_folder(folder, documents, tokenizer, separate=len(files) > 1, key=key, progress=progress)

    described = "the Python library's source" if settings.text is None else f"text {settings.text}"
    folder = _cached_folder(cache, key, write)
    return _open_parts(folder, settings, cache, f"{described} as {name}")


def _digest_of(files: list[Path]) -> str:
    """SHA-256 over the files' digests, in their order."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"text {file} cannot be read: {error.strerror}", remedy="check its permissions") from error
    return digest.hexdigest()


def _cached_folder(cache: Path, key: dict[str, Any], write: Callable[[Path, str], None]) -> Path:
    """The folder of token files for a key, written first when it is not there or not whole."""
    text = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = cache / text[:32]
    if _is_whole(folder, text):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "writing.lock").acquire()
    except OSError as error:
        raise OutputError(
            f"cache folder {cache} cannot be written: {error.strerror or error}",
            remedy="make it writable, or set XDG_CACHE_HOME to a folder that is",
        ) from error
    with lock:
        if not _is_whole(folder, text):  # another process may have finished it while this one waited
            write(folder, text)
    return folder


def _is_whole(folder: Path, key: str) -> bool:
    """Whether token files carry this key and have the lengths that they had when they were written."""
    try:
        meta = read_meta(folder)
        if meta is None or meta.key != key or meta.token_type is None:
            return False
        size = DTYPES[meta.token_type].itemsize
        lengths = [(folder / name).stat().st_size // size for name in (TRAINING_FILE, HELD_OUT_FILE)]
    except (DataError, OSError):
        return False
    return lengths == [meta.training_tokens, meta.held_out_tokens]


def _open_token_files(path: Path, settings: DataSettings, cache: Path) -> TokenData:
    if not path.exists():
        raise DataError(
            f"tokens {path} do not exist",
            remedy="give a .bin file or a folder with train.bin; `einsearch tokenize` makes one",
        )
    if path.is_dir() and not (path / TRAINING_FILE).exists():
        raise DataError(
            f"folder {path} has no {TRAINING_FILE}",
            remedy=f"give a .bin file or a folder with {TRAINING_FILE}; `einsearch tokenize` makes one",
        )
    return _open_parts(path, settings, cache, f"tokens {path}")


def _open_parts(path: Path, settings: DataSettings, cache: Path, described: str) -> TokenData:
    """A .bin file, or the train.bin and val.bin of a folder; a missing val.bin is the end of train.bin."""
    folder = path if path.is_dir() else path.parent
    meta = read_meta(folder)
    token_type = _token_type(folder, settings, meta)
    files = [folder / TRAINING_FILE, folder / HELD_OUT_FILE] if path.is_dir() else [path]
    parts = [(file, map_tokens(file, token_type)) for file in files if file == files[0] or file.exists()]
    if path.is_dir() and meta is not None:
        _refuse_other_lengths(parts, meta)
    scans = [scan(file, tokens, cache) for file, tokens in parts]
    tokenizer = _tokenizer_of(settings, meta)
    vocabulary = _vocabulary_of(folder, settings, meta, tokenizer, scans)
    for (file, tokens), found in zip(parts, scans, strict=True):
        refuse_beyond(file, tokens, found, vocabulary)
    if scans[0].smallest == scans[0].largest:
        raise DataError(
            f"every token of {described} is {scans[0].smallest:,}: there is nothing to learn",
            remedy="give a corpus with at least two different tokens",
        )
    training = parts[0][1]
    if len(parts) == 2:
        held_out = parts[1][1]
    else:
        cut = len(training) - round(settings.held_out_fraction * len(training))
        training, held_out = training[:cut], training[cut:]
    digest = hashlib.sha256(json.dumps([len(training), len(held_out), *(found.sha256 for found in scans)]).encode())
    return TokenData(training, held_out, vocabulary, tokenizer, digest.hexdigest(), described)


def _token_type(folder: Path, settings: DataSettings, meta: TokenMeta | None) -> TokenType:
    noted = None if meta is None else meta.token_type
    if settings.token_type is not None and noted is not None and settings.token_type != noted:
        raise DataError(
            f"token_type is {settings.token_type}, and {folder / META_FILE} says {noted}",
            remedy="leave token_type out, or correct the file",
        )
    return settings.token_type or noted or "uint16"


def _tokenizer_of(settings: DataSettings, meta: TokenMeta | None) -> Tokenizer | None:
    if meta is not None and meta.tokenizer is not None:
        return tokenizer_from_json(meta.tokenizer)
    if settings.tokenizer is None:
        return None
    if settings.tokenizer == "characters":
        raise DataError(
            "token files do not say which characters their tokens are",
            remedy="leave tokenizer out, or write the files with `einsearch tokenize --tokenizer characters`",
        )
    return open_tokenizer(settings.tokenizer, [])


def _vocabulary_of(
    folder: Path, settings: DataSettings, meta: TokenMeta | None, tokenizer: Tokenizer | None, scans: list[Scan]
) -> int:
    known = meta.vocabulary if meta is not None else None if tokenizer is None else tokenizer.vocabulary
    if settings.vocabulary is not None:
        if tokenizer is not None and settings.vocabulary < tokenizer.vocabulary:
            raise DataError(
                f"vocabulary is {settings.vocabulary:,}: the tokenizer has {tokenizer.vocabulary:,} tokens",
                remedy="leave vocabulary out, or give a larger number",
            )
        return settings.vocabulary
    if known is not None:
        return known
    pickled = " (meta.pkl is not read: unpickling a file runs whatever is in it)"
    raise DataError(
        f"{folder} has no {META_FILE} that says how many tokens there are"
        + (pickled if (folder / "meta.pkl").exists() else ""),
        remedy=f"give vocabulary: N in the settings, for these files at least {max(s.largest for s in scans) + 1}",
    )


def _refuse_other_lengths(parts: list[tuple[Path, TokenArray]], meta: TokenMeta) -> None:
    for (file, tokens), noted in zip(parts, (meta.training_tokens, meta.held_out_tokens), strict=False):
        if noted is not None and noted != len(tokens):
            raise DataError(
                f"{file} has {len(tokens):,} tokens, and {META_FILE} beside it says {noted:,}",
                remedy="copy the folder again, or correct the file",
            )
