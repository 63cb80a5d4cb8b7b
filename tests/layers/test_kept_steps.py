"""Which intermediates are kept for the backward pass, and that the gradients do not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.contractions.contraction import contract
from einsearch_cli.layers.plans import chunking
from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.planner import routes


def test_first_results_are_kept_as_many_as_fit() -> None:
    plan = EinsumLinear(1024, 1024, "monarch:n=3", device="meta").plan
    room = 2 * (1024**2 - plan.params) // 1024  # tokens of 1,024 numbers
    assert plan.widths[1:-1] == (1024, 1024)
    assert kept_steps(plan, room // 2) == (True, True)
    assert kept_steps(plan, room // 2 + 1) == (True, False)
    assert kept_steps(plan, room) == (True, False)
    assert kept_steps(plan, room + 1) == (False, False)
    assert kept_steps(plan, 200) == (True, True)  # a single chunk


@pytest.fixture(params=["AVX2", "AVX512"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(chunking, "_lengths", chunking._LENGTHS[request.param])
    for cached in (chunks, kept_steps):
        cached.cache_clear()
    yield request.param
    for cached in (chunks, kept_steps):
        cached.cache_clear()


def test_few_tokens_keep_all_in_however_many_chunks(processor: str) -> None:
    plan = EinsumLinear(512, 512, "btt:r=4", device="meta").plan
    assert chunks(plan, 256) == ((136, 120) if processor == "AVX2" else (256,))
    assert kept_steps(plan, 256) == (True,)
    assert kept_steps(plan, 301) == (False,)


def test_256_tokens_of_a_megabyte_are_no_single_chunk_on_an_epyc(processor: str) -> None:
    """315 µs in two chunks and 452 in one, whose rows fall onto the same cache lines; half a megabyte is faster in one."""
    wide, narrow = (EinsumLinear(256, 256, text, device="meta").plan for text in ("btt:r=4", "btt:r=2"))
    assert chunks(wide, 256) == ((136, 120) if processor == "AVX2" else (256,))
    assert chunks(narrow, 256) == (256,)


def test_chunks_are_longer_where_the_factors_overflow_the_cache(processor: str) -> None:
    small, large = (EinsumLinear(width, width, "btt:r=4", device="meta").plan for width in (1024, 2048))
    assert small.params == 2**18  # one megabyte
    assert max(chunks(small, 4096)) == 72
    assert len(chunks(small, 256)) < 256 // 72  # few tokens take fewer chunks
    longest = max(chunks(large, 4096))
    assert longest > 400 if processor == "AVX2" else longest == 136
    assert sum(chunks(small, 4096)) == sum(chunks(large, 4096)) == 4096


def test_chunks_are_longer_where_matrices_are_wide(processor: str) -> None:
    low_rank, narrow = (EinsumLinear(1024, 1024, text, device="meta").plan for text in ("low-rank", "monarch"))
    longest = max(chunks(low_rank, 4096))
    assert longest == (264 if processor == "AVX2" else 520)
    assert max(chunks(narrow, 4096)) == (168 if processor == "AVX2" else 136)
    overflowing = EinsumLinear(4096, 4096, "block-shuffle:blocks=4", device="meta").plan
    assert max(chunks(overflowing, 4096)) > 800


def test_calls_elsewhere_than_on_the_cpu_are_not_cut_into_chunks() -> None:
    layer = EinsumLinear(1024, 1024, "btt:r=4", device="meta")
    layer.route = routes(layer.sized)[0].text
    x = torch.empty(4096, 1024, device="meta", requires_grad=True)
    with _Products() as products:
        layer(x).sum().backward()
    assert products.count == 6
    assert len(chunks(layer.plan, 4096)) > 20


class _Products(TorchDispatchMode):
    """Counts calls of batched matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "bmm" in str(func)
        return func(*args, **(kwargs or {}))


def test_gradients_where_one_of_two_results_is_kept() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(1024, 1024, "monarch:n=3", bias=False, dtype=torch.float64)
    x = torch.randn(1200, 1024, dtype=torch.float64, requires_grad=True)
    assert kept_steps(layer.plan, 1200) == (True, False)
    assert len(chunks(layer.plan, 1200)) > 1
    grad = torch.randn(1200, 1024, dtype=torch.float64)
    inputs = [x, layer.gain, *layer.factors.values()]
    expected = torch.autograd.grad(contract(layer.plan, x, layer._scaled_factors()), inputs, grad)
    for found, slow in zip(torch.autograd.grad(layer(x), inputs, grad), expected, strict=True):
        torch.testing.assert_close(found, slow, rtol=1e-10, atol=1e-9)
