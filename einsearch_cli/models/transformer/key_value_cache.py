"""`KeyValueCache`: keys and values of the tokens read so far."""

from __future__ import annotations

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.models.transformer.config import TransformerConfig

# Axes in this file: L block, B batch, K key-value heads, T position, D head size.


class KeyValueCache:
    """Memory for the keys and values of up to `capacity` tokens in every block, allocated at once.

    Keys are stored after the rotation, so a token is rotated once. Every row of the batch has the same number of
    tokens.

    Args:
        config: the transformer's config.
        batch: rows that are decoded together.
        capacity: most tokens that will be read; the config's context if None.
        dtype: dtype of the model's activations.
        device: device of the model.

    >>> config = TransformerConfig(vocabulary=11, width=64, layers=2, heads=4, kv_heads=1, context=8)
    >>> cache = KeyValueCache(config, batch=3)
    >>> cache.tokens, cache.capacity, cache.bytes == 2 * 2 * 3 * 1 * 8 * 16 * 4
    (0, 8, True)
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        batch: int,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self.capacity = config.context if capacity is None else capacity
        shape = (config.layers, batch, config.kv_heads, self.capacity, config.head_size)
        self._keys_LBKTD = torch.zeros(shape, dtype=dtype, device=device)
        self._values_LBKTD = torch.zeros(shape, dtype=dtype, device=device)
        self.tokens = 0
        """The number of tokens read so far, which is the position of the next one."""

    @property
    def batch(self) -> int:
        """Rows that are decoded together."""
        return self._keys_LBKTD.shape[1]

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return 2 * self._keys_LBKTD.nbytes

    def check_room(self, batch: int, tokens: int) -> None:
        """Raise LayerError unless `batch` rows with `tokens` further tokens fit."""
        if batch != self.batch:
            raise LayerError(
                f"{batch} rows for a cache of {self.batch}: every row has to be decoded from the start",
                remedy="make a cache of this batch",
            )
        if self.tokens + tokens > self.capacity:
            raise LayerError(
                f"{tokens} tokens after {self.tokens} in a cache of {self.capacity}: they do not fit",
                remedy="make a cache of a larger capacity",
            )

    def extend(self, block: int, key_BKTD: Tensor, value_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of one block and return those of all tokens, as views."""
        end = self.tokens + key_BKTD.shape[-2]
        self._keys_LBKTD[block, :, :, self.tokens : end] = key_BKTD
        self._values_LBKTD[block, :, :, self.tokens : end] = value_BKTD
        return self._keys_LBKTD[block, :, :, :end], self._values_LBKTD[block, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count tokens that all blocks have read."""
        self.tokens += tokens

    def repeated(self, batch: int) -> KeyValueCache:
        """A copy of this one-row cache with the row repeated `batch` times, to continue one text in several ways."""
        copy = object.__new__(KeyValueCache)
        copy.capacity, copy.tokens = self.capacity, self.tokens
        copy._keys_LBKTD = self._keys_LBKTD.repeat(1, batch, 1, 1, 1)
        copy._values_LBKTD = self._values_LBKTD.repeat(1, batch, 1, 1, 1)
        return copy
