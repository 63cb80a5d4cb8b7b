"""Prediction of the next token of text, which is read as in a full training run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import Field, model_validator

from einsearch_cli.data import Batch
from einsearch_cli.data.tokens import (
    MOST_HELD_OUT,
    DataSettings,
    TokenData,
    check_length,
    held_out_batches,
    open_tokens,
)
from einsearch_cli.settings import RuleError, Whole
from einsearch_cli.tasks import TransformerTask, TransformerTaskSettings, register

FEW_HELD_OUT: Final = 8192
"""With fewer held-out tokens, chance alone moves a difference of two losses by 1% (docs/guide/data.md)."""

_FORMER_KEYS: Final = {
    "path": "data: {{text: {}}}",
    "vocabulary": "data: {{tokenizer: bpe:{}}}",
    "held_out_fraction": "data: {{held_out_fraction: {}}}",
    "block_size": "context: {}",
    "batch_size": "batch: {}",
}
"""Keys of earlier versions, with today's way to write each of them."""


class TextSettings(TransformerTaskSettings):
    """Settings of the `text` task; settings that a training file has too mean the same there."""

    data: DataSettings = DataSettings()
    """Text and tokenizer, as in a training file (docs/guide/data.md); by default the bytes of the Python library's source."""

    context: Whole = Field(default=128, ge=1, le=65_536)
    """Tokens in a row: the number that the network sees at once."""

    batch: Whole = Field(default=8, ge=1, le=65_536)
    """Rows in a training step."""

    validation_blocks: Whole = Field(default=128, ge=1, le=65_536)
    """Held-out rows that the validation loss is averaged over, evenly spaced; fewer if the held-out part is short."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_former_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key in _FORMER_KEYS:
                now = _FORMER_KEYS[key].format(str(values[key])[:60])
                raise RuleError(
                    f"{key} is a key of an earlier version, which read texts differently from training runs",
                    remedy=now,
                    key=key,
                )
        return values

    @classmethod
    def rebased(cls, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The settings with paths of data read from the folder of their file."""
        return {**values, **({"data": DataSettings.rebased(values["data"], folder)} if "data" in values else {})}


@register
class TextTask(TransformerTask[TextSettings]):
    """Language modelling with a small transformer; loss is the cross-entropy in nats per token.

    Tokens, held-out part and rows are those of a full training run with the same data settings, so the losses of one
    network agree. Losses with different tokenizers cannot be compared.

    >>> TextTask(TextSettings()).tokens_per_batch
    1024
    """

    name = "text"
    settings_type = TextSettings
    format = 2
    told_by_digest = frozenset({"data"})
    _data: TokenData | None = None

    def prepare(self) -> None:
        """Open the tokens; text is encoded once and kept in the cache folder."""
        if self._data is None:
            data = open_tokens(self.settings.data, self.cache_folder)
            data.sampler(block=self.settings.context, batch=self.settings.batch, seed=0)  # refuses short texts
            check_length(len(data.held_out), self.settings.context, "held-out")
            self._data = data

    @property
    def data(self) -> TokenData:
        """The tokens, split into training and held-out part."""
        self.prepare()
        assert self._data is not None
        return self._data

    @property
    def vocabulary(self) -> int:
        """Number of distinct tokens of the data."""
        return self.data.vocabulary

    @property
    def context(self) -> int:
        """Tokens in a row, as the settings say."""
        return self.settings.context

    def batches(self, seed: int) -> Iterator[Batch]:
        """The rows that a full training run with this seed uses."""
        sampler = self.data.sampler(block=self.settings.context, batch=self.settings.batch, seed=seed)
        return map(sampler.batch_at, itertools.count())

    def validation(self) -> tuple[Batch, ...]:
        """Held-out rows, evenly spaced and without overlap; fewer than requested if the held-out part is short."""
        settings = self.settings
        rows = held_out_batches(
            self.data.held_out, block=settings.context, batch=settings.batch, blocks=settings.validation_blocks
        )
        return tuple(rows)

    @property
    def tokens_per_batch(self) -> int:
        """Tokens per training step."""
        return self.settings.batch * self.settings.context

    @property
    def loss_unit(self) -> str:
        """The unit of the loss: nats per byte, character or token."""
        tokenizer = self.data.tokenizer
        names = {"bytes": "byte", "characters": "character"}
        return f"nats per {'token' if tokenizer is None else names.get(tokenizer.kind, 'token')}"

    def described(self) -> dict[str, str]:
        """The text, its tokens and the network."""
        settings, data = self.settings, self.data
        count = sum(len(batch.inputs) for batch in self.validation())
        unit = self.loss_unit.removeprefix("nats per ")
        kind = "" if data.tokenizer is None else f"{settings.data.tokenizer or data.tokenizer.kind}, "
        return {
            "Task": f"Language modelling (task {self.name}): predict the next {unit}.",
            "Data": f"{data.described[:1].upper()}{data.described[1:]}; {count:,} held-out rows give the loss.",
            "Tokenizer": f"{kind}{data.vocabulary:,} distinct tokens.",
            "Network": self._network(),
            "Context": f"{settings.context:,} tokens.",
            "Batch": f"{settings.batch:,} rows, {self.tokens_per_batch:,} tokens, a step.",
        }

    def caution(self) -> tuple[str, str] | None:
        """A held-out part that is too short for small differences; not a small number of rows that was asked for."""
        rows = sum(len(batch.inputs) for batch in self.validation())
        count = rows * self.settings.context
        if rows >= self.settings.validation_blocks or count >= FEW_HELD_OUT:
            return None
        unit = self.loss_unit.removeprefix("nats per ")
        problem = (
            f"only {count:,} held-out {unit}s give the loss: differences of about 1% between structures can be chance, and no "
            f"interval shows it, as all seeds are measured on these {unit}s"
        )
        data = self.settings.data
        if data.dataset is not None or data.tokens is not None:
            return problem, f"data with {FEW_HELD_OUT:,} held-out {unit}s or more"
        times = (FEW_HELD_OUT + self.settings.context) / len(self.data.held_out)
        remedy = f"a text {math.ceil(times)} times as long"
        fraction = math.ceil(100 * times * data.held_out_fraction) / 100
        if fraction <= MOST_HELD_OUT:
            remedy += f", or in a study file task_settings: {{data: {{held_out_fraction: {fraction}}}}}"
        return problem, remedy

    def data_files(self) -> Mapping[str, Path]:
        """The token files, so that a text is encoded once; a stream needs no files."""
        tokenizer = _file_of(self.settings.data.tokenizer)
        named = self.settings.data.tokens is not None and tokenizer is not None
        return {path.name: path for path in (*self.data.files, *([tokenizer] if named and tokenizer else []))}

    def reading_from(self, folder: Path) -> TextTask:
        """This task with its tokens read from a folder."""
        data = self.settings.data
        if data.tokens is None:  # texts and datasets were encoded into files that describe themselves
            return TextTask(self.settings.model_copy(update={"data": DataSettings(tokens=folder)}), self.cache_folder)
        file, tokenizer = folder / data.tokens.name, _file_of(data.tokenizer)
        changes: dict[str, Any] = {"tokens": file if file.is_file() else folder}
        if tokenizer is not None:
            changes["tokenizer"] = f"{str(data.tokenizer).partition(':')[0]}:{folder / tokenizer.name}"
        moved = self.settings.model_copy(update={"data": data.model_copy(update=changes)})
        return TextTask(moved, self.cache_folder)

    def data_digest(self) -> str:
        """SHA-256 of the tokens and of the vocabulary."""
        return f"{self.data.digest}-{self.data.vocabulary}"


def _file_of(tokenizer: str | None) -> Path | None:
    """The file that a tokenizer is read from; None where it is known by name.

    >>> _file_of("huggingface:mine/tokenizer.json"), _file_of("bpe:512")
    (PosixPath('mine/tokenizer.json'), None)
    """
    kind, _, file = str(tokenizer).partition(":")
    return Path(file) if kind == "huggingface" or file.endswith(".tiktoken") else None
