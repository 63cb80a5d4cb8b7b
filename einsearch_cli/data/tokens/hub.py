"""Hugging Face datasets: documents of a hub dataset or of local files, whole or as a stream."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from einsearch_cli.cache import cached_for_files
from einsearch_cli.data.tokens.settings import DatasetSettings
from einsearch_cli.data.tokens.sources import Document, Source
from einsearch_cli.errors import DataError
from einsearch_cli.lazy import optional_package


def describe(settings: DatasetSettings) -> str:
    """A short description of a dataset, for messages.

    >>> describe(DatasetSettings(name="roneneldan/TinyStories"))
    'dataset roneneldan/TinyStories'
    """
    files = ", ".join(map(str, settings.files))
    return f"dataset {settings.name}" + (f" of {files}" if files else "")


def dataset_source(settings: DatasetSettings, held_out_fraction: float, cache: Path) -> Source:
    """All documents of a dataset, downloaded whole.

    Without a `held_out_split`, documents are held out at even distances.
    """
    training = load(settings, settings.split, cache)
    held_out = None if settings.held_out_split is None else load(settings, settings.held_out_split, cache)
    parts = [part for part in (training, held_out) if part is not None]

    def survey() -> dict[str, Any]:
        return _survey(parts, settings)

    # The files of a slice are those of the whole split.
    details = [settings.column, settings.split, settings.held_out_split, *map(len, parts)]
    kind = f"dataset1-{hashlib.sha256(json.dumps(details).encode()).hexdigest()[:16]}"
    files = [Path(file["filename"]) for part in parts for file in part.cache_files]
    known = cached_for_files(cache, kind, files, survey) if files else survey()

    def documents() -> Iterator[Document]:
        for number, text in enumerate(texts(training, settings)):
            # With the next document, the fraction rounded down grows by one: that document is held out.
            here, before = (math.floor(count * held_out_fraction) for count in (number + 1, number))
            yield Document(text, held_out is None and here > before)
        if held_out is not None:
            yield from (Document(text, True) for text in texts(held_out, settings))

    return Source(describe(settings), str(known["sha256"]), documents, True, int(known["characters"]))


def load(settings: DatasetSettings, split: str, cache: Path) -> Any:
    """Load a split of a dataset with the package `datasets`."""
    needs, remedy = "Hugging Face datasets need the package datasets", "pip install 'einsearch[datasets]'"
    datasets = optional_package("datasets", needs, remedy, DataError)
    local = {"data_files": [str(file) for file in settings.files], "cache_dir": str(cache / "datasets")}
    try:
        return datasets.load_dataset(
            settings.name,
            settings.configuration,
            split=split,
            revision=settings.revision,
            streaming=settings.streaming,
            **(local if settings.files else {}),
        )
    except Exception as error:  # errors of many kinds: from datasets, pyarrow and the network
        raise _cannot_load(settings, split, error) from error


def texts(rows: Any, settings: DatasetSettings) -> Iterator[str]:
    """The texts of a split, or of a streamed one."""
    column = settings.column
    try:
        if column in (rows.column_names or ()):
            rows = rows.select_columns([column])  # other columns need not be read
        for number, row in enumerate(rows):
            if column not in row:
                raise DataError(
                    f"{describe(settings)} has no column {column!r}",
                    remedy=f"give as column one of: {', '.join(row)}",
                )
            text = row[column]
            if not isinstance(text, str):
                raise DataError(
                    f"{describe(settings)}, row {number:,}: {column} is {type(text).__name__}, not text",
                    remedy="give a column that has text in every row",
                )
            yield text
    except DataError:
        raise
    except Exception as error:  # while streaming, rows are read here
        raise _cannot_load(settings, settings.split, error) from error


def _survey(parts: list[Any], settings: DatasetSettings) -> dict[str, Any]:
    digest = hashlib.sha256()
    characters = 0
    for part in parts:
        for text in texts(part, settings):
            digest.update(hashlib.sha256(text.encode(errors="replace")).digest())
            characters += len(text)
        digest.update(b"end of split")
    return {"sha256": digest.hexdigest(), "characters": characters}


def _cannot_load(settings: DatasetSettings, split: str, error: Exception) -> DataError:
    cause = error.__cause__ or error  # datasets wraps pyarrow's error
    lines = str(cause).splitlines() or [""]
    return DataError(
        f"{describe(settings)}, split {split!r}, cannot be loaded: {type(cause).__name__}: {lines[0]}",
        remedy="check name, split and files; a dataset of the hub has to be fetched once with a network",
    )
