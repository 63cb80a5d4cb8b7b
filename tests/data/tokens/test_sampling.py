import itertools

import numpy as np
import pytest
import torch

from einsearch_cli.data.tokens import BlockSampler, held_out_batches
from einsearch_cli.data.tokens.block_sampler import ROUNDS, evenly_spaced, permute
from einsearch_cli.errors import DataError

KEYS = tuple(range(11, 11 + ROUNDS))


def numbers(length: int) -> np.ndarray:
    """Tokens that are equal to their places."""
    return np.arange(length, dtype=np.uint16)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 97, 1000, 1024, 99_991])
def test_a_permutation_visits_each_once(size: int) -> None:
    order = permute(np.arange(size, dtype=np.uint64), size, KEYS)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_a_permutation_needs_no_neighbours() -> None:
    """A single place goes where it goes among all."""
    order = permute(np.arange(1000, dtype=np.uint64), 1000, KEYS)
    assert [int(permute(np.array([place], dtype=np.uint64), 1000, KEYS)[0]) for place in range(20)] == order[
        :20
    ].tolist()


def test_permutations_are_spread_like_random_ones() -> None:
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for seed in range(2400):
        keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64).tolist()
        counts[tuple(permute(np.arange(4, dtype=np.uint64), 4, tuple(keys)).tolist())] += 1
    assert len(counts) == 24
    deviation = sum((count - 100) ** 2 / 100 for count in counts.values())  # chi-square with 23 degrees of freedom
    assert deviation < 50  # exceeded with probability 1e-3 by random ones


def test_a_large_corpus_is_permuted_in_place() -> None:
    """With a billion blocks, nothing of that length is allocated."""
    order = permute(np.arange(1000, dtype=np.uint64), 10**9, KEYS)
    assert len(set(order.tolist())) == 1000
    assert order.max() < 10**9
    assert abs(order.astype(float).mean() / 10**9 - 0.5) < 0.05


def test_an_epoch_has_each_block_once() -> None:
    sampler = BlockSampler(numbers(1000), block=10, batch=3, seed=0)
    assert sampler.blocks_per_epoch == 99
    for epoch in range(3):
        starts = torch.cat([sampler.batch_at(step).inputs[:, 0] for step in range(33 * epoch, 33 * (epoch + 1))])
        offset = int(starts.min())
        assert offset < 10
        assert sorted(starts.tolist()) == list(range(offset, offset + 990, 10))


def test_epochs_differ_in_order_and_in_where_blocks_begin() -> None:
    sampler = BlockSampler(numbers(1000), block=10, batch=99, seed=0)
    first, second = (sampler.batch_at(epoch).inputs[:, 0] for epoch in range(2))
    assert not torch.equal(first - first.min(), second - second.min())
    assert len({int(sampler.batch_at(epoch).inputs.min()) for epoch in range(20)}) > 3


def test_targets_are_the_next_tokens() -> None:
    inputs, targets = BlockSampler(numbers(1000), block=10, batch=4, seed=0).batch_at(5)
    assert (inputs.dtype, inputs.shape, targets.shape) == (torch.int64, (4, 10), (4, 10))
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


def test_a_step_is_the_same_whatever_came_before() -> None:
    """This holds over the end of an epoch too, as 99 blocks do not divide by 4."""
    straight = BlockSampler(numbers(1000), block=10, batch=4, seed=3)
    seen = [straight.batch_at(step) for step in range(60)]
    for step in (59, 24, 0):
        again = BlockSampler(numbers(1000), block=10, batch=4, seed=3).batch_at(step)
        assert torch.equal(again.inputs, seen[step].inputs)


def test_seeds_give_other_orders() -> None:
    one, other = (BlockSampler(numbers(1000), block=10, batch=8, seed=seed).batch_at(0).inputs for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_one_batch(world_size: int) -> None:
    def sampler(rank: int, world_size: int) -> BlockSampler:
        return BlockSampler(numbers(1000), block=10, batch=8, seed=0, rank=rank, world_size=world_size)

    for step in (0, 12):
        whole = sampler(0, 1).batch_at(step)
        parts = [sampler(rank, world_size).batch_at(step) for rank in range(world_size)]
        assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


@pytest.mark.parametrize("length", [11, 12, 15, 20, 21, 25])
def test_short_corpora(length: int) -> None:
    sampler = BlockSampler(numbers(length), block=10, batch=2, seed=0)
    for step in range(20):
        inputs, targets = sampler.batch_at(step)
        assert torch.equal(targets, inputs + 1)
        assert int(targets.max()) < length


def test_a_block_longer_than_the_corpus() -> None:
    with pytest.raises(DataError) as caught:
        BlockSampler(numbers(1024), block=1024, batch=1, seed=0)
    assert str(caught.value) == (
        "the training part of the corpus has 1,024 tokens: a block of 1,024 needs 1,025\n"
        "try: give more text, or a shorter block"
    )
    with pytest.raises(DataError, match="the held-out part of the corpus has 10 tokens: a block of 16 needs 17"):
        held_out_batches(numbers(10), block=16, batch=1, blocks=4)


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(DataError) as caught:
        BlockSampler(numbers(100), block=4, batch=6, seed=0, world_size=4)
    assert str(caught.value) == (
        "a batch of 6 rows cannot be shared evenly by 4 processes\ntry: give a batch that is a multiple of 4"
    )


def test_held_out_blocks_do_not_overlap() -> None:
    batches = held_out_batches(numbers(105), block=10, batch=4, blocks=1000)
    assert [len(batch.inputs) for batch in batches] == [2] * 5
    places = torch.cat([batch.inputs.flatten() for batch in batches])
    assert len(places.unique()) == 100
    assert evenly_spaced(105, 10, 1).tolist() == [0]
