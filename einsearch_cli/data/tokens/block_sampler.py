"""Blocks of a long row of tokens, as batches."""

from __future__ import annotations

import functools
import math
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from einsearch_cli.data.batch import Batch
from einsearch_cli.errors import DataError

# Axes in this file: B rows of a batch, T position in a block.

TokenArray = npt.NDArray[Any]
"""One axis, unsigned integers; memory-mapped when large."""

ROUNDS: Final = 6


class Sampler(Protocol):
    """Training batches by the number of the step."""

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the batch of a step, int64, (rows, block) each; always the same for the same step."""
        ...


class BlockSampler:
    """Blocks in shuffled order, epoch after epoch; the step alone determines which ones.

    An epoch cuts the tokens into blocks that do not overlap, from a start that differs between epochs, and visits each
    block once. The order is a pseudo-random permutation that is computed, not stored. So it takes no memory, however
    long the corpus is, and resuming needs nothing but the step. The rows of a batch are numbered over all processes:
    `world_size` says how many processes share a batch and does not change its contents.

    Args:
        tokens: (length,) unsigned integers.
        block: tokens that a row's network sees at once.
        batch: rows of the whole batch, over all processes.
        seed: seed of the order.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        DataError: a block and the token after it are longer than the corpus, or the rows do not divide.

    >>> sampler = BlockSampler(np.arange(100, dtype=np.uint16), block=4, batch=2, seed=0)
    >>> inputs, targets = sampler.batch_at(7)
    >>> inputs.shape, bool((targets == inputs + 1).all())
    (torch.Size([2, 4]), True)
    """

    def __init__(
        self, tokens: TokenArray, *, block: int, batch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        check_length(len(tokens), block, "training")
        self._rows = rows_of(batch, rank, world_size)
        self._tokens = np.asarray(tokens)
        self._block = block
        self._batch = batch
        self._seed = seed
        # The starts of different epochs differ by up to a block if the corpus is long enough.
        self._slack = min(block - 1, len(tokens) - 1 - block)
        self.blocks_per_epoch = (len(tokens) - 1 - self._slack) // block

    def batch_at(self, step: int) -> Batch:
        """This process's rows of the batch of a step, int64, (rows, block) each."""
        first = step * self._batch
        numbers = np.arange(first + self._rows.start, first + self._rows.stop, dtype=np.uint64)
        epochs, places = np.divmod(numbers, np.uint64(self.blocks_per_epoch))
        starts = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            keys, offset = _epoch_keys(self._seed, int(epoch), self._slack)
            order = permute(places[of_epoch], self.blocks_per_epoch, keys)
            starts[of_epoch] = order.astype(np.int64) * self._block + offset
        return cut_blocks(self._tokens, starts, self._block)


def rows_of(batch: int, rank: int, world_size: int) -> range:
    """The rows of a batch that a process takes.

    >>> rows_of(8, rank=1, world_size=2)
    range(4, 8)
    """
    if batch % world_size:
        raise DataError(
            f"a batch of {batch} rows cannot be shared evenly by {world_size} processes",
            remedy=f"give a batch that is a multiple of {world_size}",
        )
    share = batch // world_size
    return range(rank * share, (rank + 1) * share)


def check_length(length: int, block: int, part: str) -> None:
    """Raise DataError for a corpus shorter than one block and the token after it."""
    if length < block + 1:
        raise DataError(
            f"the {part} part of the corpus has {length:,} tokens: a block of {block:,} needs {block + 1:,}",
            remedy="give more text, or a shorter block",
        )


def cut_blocks(tokens: TokenArray, starts: npt.NDArray[np.int64], block: int) -> Batch:
    """The blocks that begin at `starts`; targets are the same blocks, shifted by one."""
    import torch

    inputs_BT = np.empty((len(starts), block), dtype=np.int64)
    targets_BT = np.empty((len(starts), block), dtype=np.int64)
    for row, start in enumerate(starts.tolist()):  # Slices are copied, which is 5 times as fast as one gather by index.
        inputs_BT[row] = tokens[start : start + block]
        targets_BT[row] = tokens[start + 1 : start + 1 + block]
    return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT))


def evenly_spaced(length: int, block: int, blocks: int) -> npt.NDArray[np.int64]:
    """Starts of at most `blocks` blocks that do not overlap, spread over a row of `length` tokens.

    >>> evenly_spaced(100, 10, 3).tolist()
    [0, 44, 89]
    """
    count = min(blocks, (length - 1) // block)
    return np.linspace(0, length - block - 1, count).astype(np.int64)


def held_out_batches(tokens: TokenArray, *, block: int, batch: int, blocks: int) -> list[Batch]:
    """The held-out blocks, evenly spaced, in batches of one size: the largest divisor that is at most `batch`.

    Args:
        tokens: (length,) unsigned integers.
        block: tokens that a row's network sees at once.
        batch: most rows of a batch.
        blocks: rows altogether; fewer when the tokens are short, so that none overlap.

    Raises:
        DataError: fewer than `block` + 1 tokens.

    >>> [len(rows.inputs) for rows in held_out_batches(np.zeros(100, dtype=np.uint8), block=10, batch=4, blocks=6)]
    [3, 3]
    """
    check_length(len(tokens), block, "held-out")
    starts = evenly_spaced(len(tokens), block, blocks)
    rows = largest_divisor(len(starts), batch)
    return [cut_blocks(np.asarray(tokens), part, block) for part in starts.reshape(-1, rows)]


def largest_divisor(number: int, limit: int) -> int:
    """Largest divisor of `number` that is at most `limit`.

    >>> largest_divisor(12, 5)
    4
    """
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


@functools.lru_cache(maxsize=8)
def _epoch_keys(seed: int, epoch: int, slack: int) -> tuple[tuple[int, ...], int]:
    """The keys of an epoch's permutation, and where its first block begins."""
    *keys, draw = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS + 1, np.uint64).tolist()
    return tuple(keys), draw % (slack + 1)


def permute(places: npt.NDArray[np.uint64], size: int, keys: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """Send each of `places` through a pseudo-random permutation of 0 … size-1.

    A generalised Feistel network on pairs (left, right), left below a = ⌈√size⌉ and right below b = ⌈size / a⌉:
    each round adds a keyed hash of one half to the other, modulo its range. It permutes a·b < size + a numbers; one
    that lands at `size` or beyond is permuted again until it is below. (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002, methods 2 and 3.)

    >>> sorted(permute(np.arange(5, dtype=np.uint64), 5, (1, 2, 3, 4)).tolist())
    [0, 1, 2, 3, 4]
    """
    left_range = math.isqrt(size - 1) + 1
    ranges = np.uint64(left_range), np.uint64(-(-size // left_range))
    values = _feistel(places, ranges, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], ranges, keys)
        outside = outside[values[outside] >= size]
    return values


def _feistel(
    values: npt.NDArray[np.uint64], ranges: tuple[np.uint64, np.uint64], keys: tuple[int, ...]
) -> npt.NDArray[np.uint64]:
    left, right = np.divmod(values, ranges[1])
    for left_key, right_key in zip(keys[::2], keys[1::2], strict=True):
        left = (left + _mix(right ^ np.uint64(left_key)) % ranges[0]) % ranges[0]
        right = (right + _mix(left ^ np.uint64(right_key)) % ranges[1]) % ranges[1]
    mixed: npt.NDArray[np.uint64] = left * ranges[1] + right
    return mixed


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every output bit depends on every input bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
