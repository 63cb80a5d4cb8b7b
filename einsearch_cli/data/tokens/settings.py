"""Settings that say where a training run's tokens come from."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from einsearch_cli.errors import DataError
from einsearch_cli.settings import PathSetting, RuleError, Settings, Whole

TokenType = Literal["uint8", "uint16", "uint32"]
"""The type of a stored token: an unsigned little-endian integer."""

MAX_VOCABULARY: Final = 1 << 32
MOST_HELD_OUT: Final = 0.5
"""The largest part of a text that can be held out."""


class DatasetSettings(Settings):
    """A Hugging Face dataset: a name on the hub, or a reader (`json`, `parquet`, `csv`, `text`) with files."""

    name: str = Field(min_length=1, examples=["roneneldan/TinyStories"])
    """Name on the hub such as `roneneldan/TinyStories`, or the reader of `files`: json, parquet, csv or text."""

    files: tuple[PathSetting, ...] = Field(default=(), strict=False)
    """Local files for a reader; nothing is downloaded then."""

    configuration: str | None = None
    """The configuration of a hub dataset."""

    revision: str | None = None
    """Commit, tag or branch of a hub dataset; give a commit to make a run repeatable."""

    split: str = "train"
    """Split to train on."""

    held_out_split: str | None = None
    """Split to validate on; without one, part of `split` is held out."""

    column: str = "text"
    """The column that contains the text."""

    streaming: bool = False
    """Read and encode while training, with nothing on disk."""

    held_out_documents: Whole = Field(default=256, ge=1, le=1_000_000_000)
    """Documents held out of a stream: the first ones of `held_out_split`, or else of `split`."""

    shuffle_buffer: Whole = Field(default=1024, ge=0, le=1_000_000_000)
    """The number of documents of a stream kept in memory, of which the next one is drawn; 0 keeps the order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.files and self.name not in LOCAL_READERS:
            raise RuleError(
                f"files are read by one of {', '.join(LOCAL_READERS)}, not by {self.name[:60]!r}",
                remedy="name: json, or leave files out to read a dataset of the hub",
            )
        if not self.files and self.name in LOCAL_READERS:
            raise RuleError(f"the reader {self.name!r} needs files", remedy=f"files: [FILE.{self.name}]")
        if self.streaming and "[" in f"{self.split}{self.held_out_split or ''}":
            raise RuleError("a stream has no slices of splits", remedy="give split and held_out_split by name")
        return self


LOCAL_READERS: Final = ("json", "parquet", "csv", "text")


MAX_SUBWORDS: Final = 1 << 16
"""The most subwords of a tokenizer: tokens must fit two bytes."""


def check_tokenizer(name: str) -> None:
    """Raise an error for a name that is not a tokenizer; whether it is available is checked when it is opened."""
    kind, _, argument = name.partition(":")
    size = int(argument) if argument.isascii() and argument.isdecimal() and len(argument) < 9 else 0
    if kind == "bpe" and not 256 <= size <= MAX_SUBWORDS:
        raise DataError(
            f"tokenizer {name[:40]!r}: bpe:N takes a number of subwords from 256 to {MAX_SUBWORDS:,}",
            remedy="tokenizer: bpe:1024",
            keys=("tokenizer",),
        )
    if name not in ("bytes", "characters") and not (kind in ("bpe", "tiktoken", "huggingface") and argument):
        raise DataError(
            f"no tokenizer {name[:60]!r}",
            remedy="use bytes, characters, bpe:N, tiktoken:NAME, tiktoken:FILE.tiktoken or huggingface:FILE",
            keys=("tokenizer",),
        )


class DataSettings(Settings):
    """The source of the tokens: one of `tokens`, `text` and `dataset`.

    By default, the Python standard library's source code is the text.

    >>> DataSettings(text="book.txt", tokenizer="characters").tokenizer
    'characters'
    """

    tokens: PathSetting | None = None
    """Token file (`.bin`, raw little-endian integers as nanoGPT writes them), or a folder with train.bin and val.bin."""

    text: PathSetting | None = None
    """Text file, or folder of text files, in UTF-8."""

    dataset: DatasetSettings | None = None
    """Hugging Face dataset (extra `datasets`)."""

    tokenizer: str | None = Field(default=None, examples=["characters"])
    """The name of the tokenizer.

    `bytes` (the default for text), `characters`, `bpe:N` (N subwords found in the text), `tiktoken:NAME`,
    `tiktoken:FILE.tiktoken` or `huggingface:FILE` (a tokenizer.json). For token files it is needed only to generate
    text.
    """

    vocabulary: Whole | None = Field(default=None, ge=2, le=MAX_VOCABULARY)
    """Number of distinct tokens of token files that have no meta.json, or a larger number than the tokenizer has."""

    token_type: TokenType | None = None
    """Type of the integers in token files that have no meta.json; uint16 unless given."""

    held_out_fraction: float = Field(default=0.05, gt=0, le=MOST_HELD_OUT)
    """The part held out for validation.

    Held out are whole files of a folder, the end of a single file or of a token file without a val.bin, or documents of
    a dataset without a `held_out_split`.
    """

    @classmethod
    def rebased(cls, values: object, folder: Path) -> object:
        """Read plain settings from a file, with its relative paths taken from its folder.

        >>> DataSettings.rebased({"text": "books", "tokenizer": "huggingface:a.json"}, Path("mine"))
        {'text': 'mine/books', 'tokenizer': 'huggingface:mine/a.json'}
        """
        if not isinstance(values, dict):
            return values
        found = dict(values)
        for name in ("tokens", "text"):
            if isinstance(found.get(name), str):
                found[name] = str(folder / found[name])
        kind, _, file = str(found.get("tokenizer")).partition(":")
        if kind == "huggingface" or file.endswith(".tiktoken"):
            found["tokenizer"] = f"{kind}:{folder / file}"
        dataset = found.get("dataset")
        if isinstance(dataset, dict) and isinstance(dataset.get("files"), list):
            found["dataset"] = {**dataset, "files": [str(folder / str(name)) for name in dataset["files"]]}
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("tokens", "text", "dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise RuleError(
                f"the tokens come from one place, and {' and '.join(given)} are given", remedy=f"keep {given[0]} alone"
            )
        if self.token_type is not None and self.tokens is None:
            raise RuleError(
                "token_type describes token files, and tokens is not given",
                remedy="tokens: FOLDER, or leave token_type out",
            )
        if self.tokenizer is not None:
            check_tokenizer(self.tokenizer)
        return self
