"""Tokens that are read and encoded during a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from einsearch_cli.data.batch import Batch
from einsearch_cli.data.tokens import hub
from einsearch_cli.data.tokens.block_sampler import TokenArray, cut_blocks, rows_of
from einsearch_cli.data.tokens.encoding import encode_document
from einsearch_cli.data.tokens.settings import DatasetSettings
from einsearch_cli.data.tokens.tokenizers import Tokenizer
from einsearch_cli.errors import DataError


@dataclass(frozen=True)
class TokenStream:
    """The training part of a streamed dataset, epoch after epoch."""

    settings: DatasetSettings
    tokenizer: Tokenizer
    cache: Path

    def epoch(self, number: int, seed: int) -> Iterator[TokenArray]:
        """The tokens of the documents of an epoch, in a shuffled order that number and seed determine."""
        rows = hub.load(self.settings, self.settings.split, self.cache)
        if self.settings.held_out_split is None:
            rows = rows.skip(self.settings.held_out_documents)
        if self.settings.shuffle_buffer:
            # The package's own set_epoch adds the number to the seed: seed 1 would start with the second epoch of seed
            # 0.
            drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            rows = rows.shuffle(seed=drawn, buffer_size=self.settings.shuffle_buffer)
        return encode_all(rows, self.settings, self.tokenizer)

    def held_out(self) -> TokenArray:
        """Tokens of the first `held_out_documents` documents of the held-out split, or else of the training split."""
        split = self.settings.held_out_split or self.settings.split
        rows = hub.load(self.settings, split, self.cache).take(self.settings.held_out_documents)
        parts = list(encode_all(rows, self.settings, self.tokenizer))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)


def encode_all(rows: Any, settings: DatasetSettings, tokenizer: Tokenizer) -> Iterator[TokenArray]:
    """The tokens of documents, with separators as in token files."""
    for text in hub.texts(rows, settings):
        yield from encode_document(text, tokenizer, separate=True)


class StreamSampler:
    """Consecutive blocks of a stream; the step alone determines which ones.

    Asking for the next step reads on. A later step is reached by reading and encoding everything before it, an earlier
    step by starting over. So a resumed run spends that time once, and then continues with the same batches. Every
    process reads the whole stream and takes its rows. Arguments are those of `BlockSampler`; the seed orders the
    documents.
    """

    def __init__(
        self, stream: TokenStream, *, block: int, batch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._rows = rows_of(batch, rank, world_size)
        self._stream = stream
        self._block = block
        self._batch_tokens = batch * block
        self._seed = seed
        self._restart()

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the batch of a step, int64, (rows, block) each."""
        if step < self._step:
            self._restart()
        while self._step < step:
            self._advance()
        starts = np.arange(self._rows.start, self._rows.stop, dtype=np.int64) * self._block
        return cut_blocks(self._tokens, starts, self._block)

    def _restart(self) -> None:
        self._parts = self._all_parts()
        self._rest: TokenArray = np.empty(0, dtype=np.uint8)
        self._step = -1

    def _advance(self) -> None:
        """Read the tokens of the next step, and the one after them as the last target."""
        needed = self._batch_tokens + 1
        gathered, length = [self._rest], len(self._rest)
        while length < needed:
            part = next(self._parts)
            gathered.append(part)
            length += len(part)
        joined = np.concatenate(gathered)
        self._tokens: TokenArray = joined[:needed]
        self._rest = joined[self._batch_tokens :]
        self._step += 1

    def _all_parts(self) -> Iterator[TokenArray]:
        for epoch in itertools.count():
            length = 0
            for part in self._stream.epoch(epoch, self._seed):
                length += len(part)
                yield part
            if length <= self._batch_tokens:
                raise DataError(
                    f"{hub.describe(self._stream.settings)} has {length:,} tokens to train on: "
                    f"a batch takes {self._batch_tokens:,}",
                    remedy="give more text, a smaller batch or a shorter block, or turn streaming off",
                )


def stream_identity(settings: DatasetSettings, tokenizer: Tokenizer) -> str:
    """A key of a stream that needs no reading: where it comes from and how it is encoded."""
    return json.dumps([settings.model_dump(mode="json"), tokenizer.to_json()], sort_keys=True)
