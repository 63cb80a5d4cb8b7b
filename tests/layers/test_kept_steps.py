"""The chunks of a call, the intermediates kept for the backward pass, and what both may cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from einsearch_cli.layers import EinsumLinear, Plan
from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, ChunkLengths
from einsearch_cli.layers.plans.planner import routes, stored_plan
from einsearch_cli.structures import parse_structure
from tests.layers.parts import reference_output

STRUCTURES = ("monarch", "monarch:n=3", "btt:r=2", "btt:r=4", "tt:r=4", "tt:n=3,r=4", "kronecker", "low-rank")
WIDTHS = (256, 512, 1024, 2048, 4096)
CACHE_BYTES = {"default": 2 << 20, "small cache": 1 << 20}
"""Second-level cache per core of the processors for which chunks are sized."""
LENGTHS = {
    "default": DEFAULT_CPU.chunks,
    "small cache": ChunkLengths(
        elements=168 << 10, wide_elements=1 << 18, large_matrix=1 << 16, of_many_params=500, of_few=128
    ),
}
SHORT = {"default": 300, "small cache": 192}
"""The number of tokens of a chunk that is not worth cutting further, however wide its activations are."""
DEAR_TO_REPEAT = 200
"""The numbers in a sum beyond which recomputing costs more than keeping the result."""


@pytest.fixture(params=LENGTHS)
def processor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lengths(processor: str) -> ChunkLengths | None:
    return LENGTHS[processor]


def plan_of(text: str, width: int) -> Plan:
    return stored_plan(parse_structure(text).at(width, width))


@pytest.mark.parametrize("text", STRUCTURES)
def test_chunks_cover_all_tokens_in_nearly_equal_lengths(text: str, lengths: ChunkLengths) -> None:
    for width in WIDTHS:
        for tokens in (1, 7, 64, 250, 256, 300, 301, 1000, 4096, 16384):
            found = chunks(plan_of(text, width), tokens, lengths)
            assert sum(found) == tokens
            assert min(found) >= 1
            *whole, last = found
            assert len(set(whole)) <= 1
            assert last <= max(found)
            # Rows of feature-major intermediates whose lengths are even multiples of eight share cache lines.
            assert all(length % 16 == 8 for length in whole)


@pytest.mark.parametrize("text", STRUCTURES)
def test_a_chunk_stays_in_the_cache_and_is_worth_its_calls(text: str, processor: str, lengths: ChunkLengths) -> None:
    """Longer chunks pay only if packing factors that overflow the cache costs more than the activations."""
    for width in WIDTHS:
        plan = plan_of(text, width)
        cached = max(step.matrix_elements for step in plan.steps) < 1 << 15 and plan.params <= 1 << 18
        for tokens in (256, 512, 1024, 4096, 16384):
            found = chunks(plan, tokens, lengths)
            assert len(found) <= max(1, tokens // 48), "calls would cost more than the products"
            if cached:
                most_bytes = 1.1 * CACHE_BYTES[processor]
                assert found[0] <= SHORT[processor] or 4 * found[0] * max(plan.widths) <= most_bytes, (width, tokens)


def test_chunks_are_longer_where_every_chunk_costs_more(lengths: ChunkLengths) -> None:
    """Factors that overflow the cache are read again for every chunk, and wide matrices are packed again."""
    longest = {
        (text, width): max(chunks(plan_of(text, width), 4096, lengths))
        for text, width in (("btt:r=4", 1024), ("btt:r=4", 2048), ("low-rank", 1024), ("monarch", 1024))
    }
    assert longest["btt:r=4", 2048] > longest["btt:r=4", 1024]
    assert longest["low-rank", 1024] > longest["monarch", 1024]
    assert max(chunks(plan_of("block-shuffle:blocks=4", 4096), 4096, lengths)) > longest["low-rank", 1024]
    assert max(chunks(plan_of("btt:r=4", 1024), 256, lengths)) >= longest["btt:r=4", 1024], (
        "few tokens take fewer chunks"
    )


def kept_elements(plan: Plan, tokens: int, lengths: ChunkLengths) -> int:
    """Elements of intermediates that live from the forward to the backward pass, without those expensive to recompute."""
    kept = zip(kept_steps(plan, tokens, lengths), plan.steps, plan.widths[1:-1], strict=False)
    return tokens * sum(width for is_kept, step, width in kept if is_kept and step.weight_shape[1] <= DEAR_TO_REPEAT)


@pytest.mark.parametrize("text", STRUCTURES)
def test_what_is_kept_takes_no_more_memory_than_a_dense_layer(text: str, lengths: ChunkLengths) -> None:
    """In training, a dense layer holds four numbers for every weight: itself, its gradient and Adam's moments."""
    for width in WIDTHS:
        plan = plan_of(text, width)
        for tokens in (512, 1024, 4096, 16384, 65536):
            if len(chunks(plan, tokens, lengths)) > 1:
                assert kept_elements(plan, tokens, lengths) <= 4 * width**2, (width, tokens)


@pytest.mark.parametrize("text", STRUCTURES)
def test_small_results_are_kept(text: str, lengths: ChunkLengths) -> None:
    """Results that are not kept are computed twice; if half a dense weight and gradient is room enough, all are kept."""
    for width in WIDTHS:
        plan = plan_of(text, width)
        for tokens in (1, 100, 256, 512, 1024, 2048):
            if tokens * sum(plan.widths[1:-1]) <= width**2 - plan.params:
                assert all(kept_steps(plan, tokens, lengths)), (width, tokens)


@pytest.mark.parametrize("text", STRUCTURES)
def test_a_call_of_few_tokens_or_of_one_chunk_computes_nothing_twice(text: str, lengths: ChunkLengths) -> None:
    """Their backward pass would hold all results at once anyway."""
    for width in WIDTHS:
        plan = plan_of(text, width)
        for tokens in (1, 64, 256, 1024):
            if tokens <= 256 or len(chunks(plan, tokens, lengths)) == 1:
                assert all(kept_steps(plan, tokens, lengths))


def test_the_first_results_are_kept_and_the_later_ones_computed_again() -> None:
    """The backward pass starts from the last result: what it needs first is recomputed last."""
    plan = plan_of("monarch:n=3", 1024)
    found = [kept_steps(plan, tokens) for tokens in range(400, 8000, 100)]
    assert [*dict.fromkeys(found)] in (
        [(True, True), (True, False), (False, False)],
        [(True, False), (False, False)],
    )


def test_calls_elsewhere_than_on_the_cpu_are_not_cut_into_chunks() -> None:
    layer = EinsumLinear(1024, 1024, "btt:r=4", device="meta")
    layer.route = routes(layer.sized)[0].text
    x = torch.empty(4096, 1024, device="meta", requires_grad=True)
    with _Products() as products:
        layer(x).sum().backward()
    assert products.count == 6
    assert len(chunks(layer.plan, 4096)) > 1


class _Products(TorchDispatchMode):
    """Counts calls of batched matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "bmm" in str(func)
        return func(*args, **(kwargs or {}))


def test_gradients_where_one_of_two_results_is_kept() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(1024, 1024, "monarch:n=3", bias=False, dtype=torch.float64)
    tokens = next(n for n in range(400, 8000, 100) if kept_steps(layer.plan, n) == (True, False))
    assert len(chunks(layer.plan, tokens)) > 1
    x = torch.randn(tokens, 1024, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(tokens, 1024, dtype=torch.float64)
    inputs = [x, layer.gain, *layer.factors.values()]
    expected = torch.autograd.grad(reference_output(layer, x), inputs, grad)
    for found, slow in zip(torch.autograd.grad(layer(x), inputs, grad), expected, strict=True):
        torch.testing.assert_close(found, slow, rtol=1e-10, atol=1e-9)
