"""Prediction of the next character or subword of real text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from einsearch_cli.data.base import Batch, Task, TaskSettings, register_task
from einsearch_cli.data.corpus import Corpus, read_corpus
from einsearch_cli.data.subword_corpus import SubwordCorpus, read_subwords
from einsearch_cli.data.tokens.sampling import cut_blocks, held_out_batches
from einsearch_cli.errors import DataError
from einsearch_cli.models.counts import NetworkCount
from einsearch_cli.models.transformer.accounting import transformer_count
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.models.transformer.presets import proxy_config
from einsearch_cli.settings import PathSetting, Whole
from einsearch_cli.structures import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from einsearch_cli.models import ProxyModel

# Axes in this file: B batch, T position, V vocabulary.


class TextSettings(TaskSettings):
    """Settings of the `text` task."""

    path: PathSetting | None = None
    """Text file, or folder of text files, in UTF-8; by default the Python standard library's own source."""

    vocabulary: Whole | None = Field(default=None, ge=256, le=65_536)
    """Tokens are so many subwords, found in the training text by byte-pair encoding; characters unless given."""

    held_out_fraction: float = Field(default=0.05, gt=0, le=0.5)
    """Part of the characters held out for validation; whole files of a folder, the end of a single file."""

    validation_blocks: Whole = Field(default=128, ge=1, le=65_536)
    """Held-out blocks that the validation loss is averaged over, evenly spaced."""

    block_size: Whole = Field(default=128, ge=1, le=65_536)
    """Tokens the network sees at once."""

    batch_size: Whole = Field(default=8, ge=1, le=65_536)
    """Blocks per training step."""

    layers: Whole = Field(default=2, ge=1, le=200)
    """Transformer blocks of the network."""

    base_width: Whole = Field(default=64, ge=1, le=1_000_000)
    """Width at which the learning rate holds as it is; other widths scale it by muP."""

    learning_rate: float = Field(default=1e-2, gt=0)
    """Base learning rate of AdamW at `base_width`."""

    @model_serializer(mode="wrap")
    def _without_absent_vocabulary(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a vocabulary that is not given: the fingerprints of studies on characters go without it."""
        values: dict[str, Any] = handler(self)
        if values["vocabulary"] is None:
            del values["vocabulary"]
        return values


@register_task("text", TextSettings)
class TextTask(Task[TextSettings]):
    """Language modelling with a small transformer; loss is the cross-entropy in nats per character or per token.

    Losses of different vocabularies cannot be compared: a subword stands for several characters.

    >>> TextTask(TextSettings()).tokens_per_batch
    1024
    """

    _corpus: Corpus | SubwordCorpus | None = None

    @property
    def _described(self) -> str:
        path = self.settings.path
        return "the Python library's source" if path is None else f"text {path}"

    @property
    def _unit(self) -> str:
        return "character" if self.settings.vocabulary is None else "token"

    def prepare(self) -> None:
        """Read the text; subwords are found once and kept in the cache folder.

        Raises:
            DataError: it cannot be read, one of its two parts is shorter than a block and one token, or the
                package that finds subwords is missing.
            OutputError: the cache folder cannot be written.
        """
        if self._corpus is not None:
            return
        path, fraction, vocabulary = self.settings.path, self.settings.held_out_fraction, self.settings.vocabulary
        if vocabulary is None:
            corpus: Corpus | SubwordCorpus = read_corpus(path, fraction)
        else:
            corpus = read_subwords(path, fraction, vocabulary, self.cache_folder)
        needed = self.settings.block_size + 1
        for part, tokens in (("training", corpus.training), ("held-out", corpus.held_out)):
            if len(tokens) < needed:
                raise DataError(
                    f"the {part} part of {self._described} has {len(tokens)} {self._unit}s: "
                    f"a block of {self.settings.block_size} needs {needed}",
                    remedy="give a longer text, or a smaller block_size",
                )
        self._corpus = corpus

    @property
    def corpus(self) -> Corpus | SubwordCorpus:
        """The text, encoded and split."""
        self.prepare()
        assert self._corpus is not None
        return self._corpus

    def build_model(self, structure: LayerSpec, width: int) -> ProxyModel:
        """A transformer of the given width; dense layers are a structure too, with gain and cap."""
        from einsearch_cli.models import Transformer, structured_linear

        return Transformer(self._config(structure, width, self.corpus.vocabulary), structured_linear(structure))

    def count(self, structure: LayerSpec, width: int) -> NetworkCount:
        """Parameters and FLOPs of the transformer that `build_model` makes, by arithmetic.

        Before subwords are found, their number is taken to be the one asked for.
        """
        found = self._corpus is not None or self.settings.vocabulary is None
        vocabulary = self.corpus.vocabulary if found else self.settings.vocabulary or 0
        return transformer_count(self._config(structure, width, vocabulary), dense_as_structure=True)

    def _config(self, structure: LayerSpec, width: int, vocabulary: int) -> TransformerConfig:
        return proxy_config(
            vocabulary=vocabulary,
            width=width,
            layers=self.settings.layers,
            context=self.settings.block_size,
            structure=str(structure),
        )

    def batches(self, seed: int) -> Iterator[Batch]:
        """Blocks from random places of the training text."""
        import torch

        tokens = self.corpus.training
        generator = torch.Generator().manual_seed(seed)
        last = len(tokens) - self.settings.block_size
        while True:
            starts = torch.randint(last, (self.settings.batch_size,), generator=generator)
            yield cut_blocks(tokens, starts.numpy(), self.settings.block_size)

    def validation(self) -> tuple[Batch, ...]:
        """Held-out blocks, evenly spaced; fewer than asked for when the text is short, none overlapping."""
        tokens = self.corpus.held_out
        size = self.settings.block_size
        count, rows = self.settings.validation_blocks, self.settings.batch_size
        return tuple(held_out_batches(tokens, block=size, batch=rows, blocks=count))

    def loss(self, model: ProxyModel, batch: Batch) -> Tensor:
        """Cross-entropy, nats per character or token."""
        import torch.nn.functional as F

        logits_BTV = model(batch.inputs)
        return F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets.flatten())

    @property
    def tokens_per_batch(self) -> int:
        """Tokens per training step."""
        return self.settings.batch_size * self.settings.block_size

    @property
    def loss_unit(self) -> str:
        """Nats per character, or per token with a vocabulary of subwords."""
        return f"nats per {self._unit}"

    def data_digest(self) -> str:
        """SHA-256 of the text, or of its subwords."""
        return self.corpus.sha256
