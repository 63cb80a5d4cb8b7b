"""Open the tokens of a training run, from any source that the settings name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from einsearch_cli.cache import computed_once, default_cache_folder
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
from einsearch_cli.data.tokens.block_sampler import BlockSampler, Sampler, TokenArray
from einsearch_cli.data.tokens.encoding import smallest_type, write_token_folder
from einsearch_cli.data.tokens.hub import dataset_source, describe
from einsearch_cli.data.tokens.registry import learned_tokenizer, open_tokenizer, tokenizer_from_json
from einsearch_cli.data.tokens.settings import DatasetSettings, DataSettings, TokenType
from einsearch_cli.data.tokens.sources import Source, key_of
from einsearch_cli.data.tokens.streaming import StreamSampler, TokenStream, stream_identity
from einsearch_cli.data.tokens.texts import text_files, text_source
from einsearch_cli.data.tokens.tokenizers import Tokenizer
from einsearch_cli.errors import DataError, OutputError
from einsearch_cli.files import write_error

_ELSEWHERE = "make it writable, give another one, or for the cache set XDG_CACHE_HOME"


@dataclass(frozen=True)
class TokenData:
    """Training tokens and held-out tokens of one source."""

    training: TokenArray | TokenStream
    """Training tokens: (length,) unsigned integers, memory-mapped; or a stream."""

    held_out: TokenArray
    """Held-out tokens: (length,) unsigned integers, memory-mapped; in memory if training tokens are a stream."""

    vocabulary: int
    """Number of distinct tokens; every token is below it."""

    tokenizer: Tokenizer | None
    """The tokenizer of the tokens, if it is known."""

    digest: str
    """SHA-256 over both parts; for a stream, over its settings and the held-out part.

    A checkpoint records it and refuses to go on with another corpus.
    """

    described: str
    """A short description of the source, for messages."""

    files: tuple[Path, ...] = ()
    """The token files, and the meta.json next to them; empty for a stream."""

    def sampler(self, *, block: int, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> Sampler:
        """Batches of the training part by the number of the step; arguments as in `BlockSampler`."""
        if isinstance(self.training, TokenStream):
            return StreamSampler(self.training, block=block, batch=batch, seed=seed, rank=rank, world_size=world_size)
        return BlockSampler(self.training, block=block, batch=batch, seed=seed, rank=rank, world_size=world_size)


def open_tokens(
    settings: DataSettings, cache_folder: Path | None = None, progress: Callable[[float], None] | None = None
) -> TokenData:
    """Open the tokens of a run; text is encoded once and kept in the cache folder.

    Safe to call from several processes at once: one encodes, the others wait.

    Args:
        settings: where the tokens come from.
        cache_folder: for encoded text and digests; the user's cache folder when None.
        progress: called with the share of the text that is encoded.

    Raises:
        DataError: the source is missing, not readable, empty, of the wrong type or of one token only, or has a token
            that the vocabulary does not have; or the tokenizer is not available.
        OutputError: the cache folder cannot be written.
    """
    cache = (default_cache_folder() if cache_folder is None else cache_folder) / "tokens"
    if settings.tokens is not None:
        path = settings.tokens
        _check_token_files(path)
        _refuse_other_tokenizer(path if path.is_dir() else path.parent, settings)
        return _open_parts(path, settings, cache, f"tokens {path}")
    if settings.dataset is not None and settings.dataset.streaming:
        return _open_stream(settings, settings.dataset, cache)
    return _open_documents(settings, cache, progress)


def check_source(settings: DataSettings) -> None:
    """Check that the files exist and the tokenizer is available, before anything slow starts.

    Raises:
        DataError: a file or the tokenizer is missing.
    """
    if settings.tokens is not None:
        _check_token_files(settings.tokens)
    elif settings.dataset is None:
        text_files(settings.text)
    if settings.tokenizer is not None and learned_tokenizer(settings.tokenizer) is None:
        open_tokenizer(settings.tokenizer)


def write_tokens(
    text: Path,
    folder: Path,
    tokenizer: str,
    *,
    held_out_fraction: float,
    token_type: TokenType | None = None,
    progress: Callable[[float], None] | None = None,
) -> TokenMeta:
    """Encode a text into a folder of token files, for `DataSettings.tokens`.

    Args:
        text: text file, or folder of text files.
        folder: created if it is missing; must not contain token files.
        tokenizer: its name, as in `DataSettings.tokenizer`.
        held_out_fraction: part of the characters held out.
        token_type: type of the integers; None takes the smallest that holds the vocabulary.
        progress: called with the share of the text that is done.

    Raises:
        DataError: the text or the tokenizer cannot be read, or its tokens do not fit the type.
        OutputError: the folder has token files, or cannot be written.
    """
    present = [name for name in (TRAINING_FILE, HELD_OUT_FILE, META_FILE) if (folder / name).exists()]
    if present:
        raise OutputError(
            f"folder {folder} has {' and '.join(present)} already",
            remedy="give another folder, or remove them first",
        )
    source = text_source(text, held_out_fraction, default_cache_folder() / "tokens")
    made = _tokenizer_for(source, tokenizer)
    if token_type is not None and made.vocabulary > 1 << 8 * DTYPES[token_type].itemsize:
        raise DataError(
            f"{made.vocabulary:,} tokens do not fit {token_type}",
            remedy=f"give {smallest_type(made.vocabulary)}, or leave the type out",
        )
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return write_token_folder(folder, source, made, token_type=token_type, progress=progress)


def _open_documents(settings: DataSettings, cache: Path, progress: Callable[[float], None] | None) -> TokenData:
    if settings.dataset is not None:
        source = dataset_source(settings.dataset, settings.held_out_fraction, cache)
    else:
        source = text_source(settings.text, settings.held_out_fraction, cache)
    name = settings.tokenizer or "bytes"
    learned = learned_tokenizer(name)
    key = key_of(
        source, open_tokenizer(name).to_json() if learned is None else learned.identity, settings.held_out_fraction
    )
    folder = cache / key[:32]

    def write() -> object:
        return write_token_folder(folder, source, _tokenizer_for(source, name), key=key, progress=progress)

    with _writing_to(folder):
        computed_once(folder / "writing.lock", lambda: _is_whole(folder, key) or None, write)
    return _open_parts(folder, settings, cache, f"{source.described} as {name}")


def _tokenizer_for(source: Source, name: str) -> Tokenizer:
    learned = learned_tokenizer(name)
    return open_tokenizer(name) if learned is None else learned.of(source.training_texts())


def _open_stream(settings: DataSettings, dataset: DatasetSettings, cache: Path) -> TokenData:
    name = settings.tokenizer or "bytes"
    tokenizer = open_tokenizer(name)
    stream = TokenStream(dataset, tokenizer, cache)
    held_out = stream.held_out()
    vocabulary = _vocabulary_of(settings, tokenizer.vocabulary, tokenizer) or tokenizer.vocabulary
    digest = hashlib.sha256(stream_identity(dataset, tokenizer).encode() + held_out.tobytes()).hexdigest()
    return TokenData(stream, held_out, vocabulary, tokenizer, digest, f"{describe(dataset)} as {name}, streamed")


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Report errors of the system inside the block as errors of writing to the folder."""
    try:
        yield
    except OSError as error:
        raise write_error(f"folder {folder}", error, otherwise=_ELSEWHERE) from error


def _is_whole(folder: Path, key: str) -> bool:
    """Whether the token files carry this key and still have the lengths with which they were written."""
    try:
        meta = read_meta(folder)
        if meta is None or meta.key != key or meta.token_type is None:
            return False
        size = DTYPES[meta.token_type].itemsize
        lengths = [(folder / name).stat().st_size // size for name in (TRAINING_FILE, HELD_OUT_FILE)]
    except (DataError, OSError):
        return False
    return lengths == [meta.training_tokens, meta.held_out_tokens]


def _check_token_files(path: Path) -> None:
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


def _refuse_other_tokenizer(folder: Path, settings: DataSettings) -> None:
    meta = read_meta(folder)
    name = settings.tokenizer
    if meta is None or meta.tokenizer is None or name is None:
        return
    same = (
        meta.tokenizer.get("kind") == name if name == "characters" else meta.tokenizer == open_tokenizer(name).to_json()
    )
    if not same:
        raise DataError(
            f"tokenizer is {name}, and the files in {folder} were written with another, which {META_FILE} holds",
            remedy="leave tokenizer out",
        )


def _open_parts(path: Path, settings: DataSettings, cache: Path, described: str) -> TokenData:
    """Open a .bin file, or the train.bin and val.bin of a folder; without val.bin, the end of train.bin is held out."""
    folder = path if path.is_dir() else path.parent
    meta = read_meta(folder)
    token_type = _token_type(folder, settings, meta)
    files = [folder / TRAINING_FILE, folder / HELD_OUT_FILE] if path.is_dir() else [path]
    parts = [(file, map_tokens(file, token_type)) for file in files if file == files[0] or file.exists()]
    if path.is_dir() and meta is not None:
        _refuse_other_lengths(parts, meta)
    scans = [scan(file, tokens, cache) for file, tokens in parts]
    tokenizer = None
    if meta is not None and meta.tokenizer is not None:
        tokenizer = tokenizer_from_json(meta.tokenizer)
    elif settings.tokenizer is not None:
        tokenizer = open_tokenizer(settings.tokenizer)
    known = meta.vocabulary if meta is not None else None if tokenizer is None else tokenizer.vocabulary
    vocabulary = _vocabulary_of(settings, known, tokenizer)
    if vocabulary is None:
        raise _no_vocabulary(folder, scans)
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
    present = [file for file in (*files, folder / META_FILE) if file.exists()]
    return TokenData(training, held_out, vocabulary, tokenizer, digest.hexdigest(), described, tuple(present))


def _token_type(folder: Path, settings: DataSettings, meta: TokenMeta | None) -> TokenType:
    noted = None if meta is None else meta.token_type
    if settings.token_type is not None and noted is not None and settings.token_type != noted:
        raise DataError(
            f"token_type is {settings.token_type}, and {folder / META_FILE} says {noted}",
            remedy="leave token_type out, or correct the file",
        )
    return settings.token_type or noted or "uint16"


def _vocabulary_of(settings: DataSettings, known: int | None, tokenizer: Tokenizer | None) -> int | None:
    """The vocabulary that the settings give, or else the known one."""
    vocabulary = settings.vocabulary or known
    if vocabulary is not None and tokenizer is not None and vocabulary < tokenizer.vocabulary:
        raise DataError(
            f"vocabulary is {vocabulary:,}: the tokenizer has {tokenizer.vocabulary:,} tokens",
            remedy="leave vocabulary out, or give a larger number",
        )
    return vocabulary


def _no_vocabulary(folder: Path, scans: list[Scan]) -> DataError:
    pickled = " (meta.pkl is not read: unpickling a file runs whatever is in it)"
    return DataError(
        f"{folder} has no {META_FILE} that says how large the vocabulary is"
        + (pickled if (folder / "meta.pkl").exists() else ""),
        remedy=f"give data.vocabulary, for these files at least {max(s.largest for s in scans) + 1}",
    )


def _refuse_other_lengths(parts: list[tuple[Path, TokenArray]], meta: TokenMeta) -> None:
    for (file, tokens), noted in zip(parts, (meta.training_tokens, meta.held_out_tokens), strict=False):
        if noted is not None and noted != len(tokens):
            raise DataError(
                f"{file} has {len(tokens):,} tokens, and {META_FILE} next to it says {noted:,}",
                remedy="copy the folder again, or correct the file",
            )
