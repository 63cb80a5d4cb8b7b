"""Into which chunks of tokens a call is cut, and which intermediates are kept for the backward pass."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.processor import multiplies_by_avx512
from einsearch_cli.layers.plans.two_cores import is_fused


class _Lengths(NamedTuple):
    """What depends on the processor."""

    elements: int
    """Of the widest intermediate of a chunk."""
    wide_elements: int
    """The same where matrices are wide, whose packing anew for every chunk costs more."""
    large_matrix: int
    """Elements of a matrix beyond which it overflows the cache itself."""
    of_many_params: int
    """Tokens at least, where the factors themselves overflow the cache, into which every chunk brings them anew."""
    of_few: int
    """Tokens below which the calls of a chunk cost more than the cache saves, where there are few chunks."""


_LENGTHS = {
    # Figures in `docs/log.md`, 2026-11-25 to 2026-11-28: EPYCs of half or one megabyte a core, and a Xeon of two, whose
    # activations are dear once they leave that. btt:r=4 4096 wide, chunks of 136 and 504 tokens, over bare: EPYC 1.42 and
    # 1.27, Xeon 1.19 and 1.88; 256 wide, 256 tokens in two chunks and in one, forward on the EPYC 315 and 452 µs.
    "AVX2": _Lengths(elements=168 << 10, wide_elements=1 << 18, large_matrix=1 << 16, of_many_params=500, of_few=128),
    "AVX512": _Lengths(elements=1 << 17, wide_elements=1 << 19, large_matrix=1 << 18, of_many_params=136, of_few=256),
}
_lengths = _LENGTHS["AVX512" if multiplies_by_avx512() else "AVX2"]
"""Of the instructions that multiply: AVX2's on an EPYC that has AVX-512."""
_MANY_PARAMS = 1 << 18
"""Elements of factors that overflow the cache."""
_FEW_TOKENS = 300
"""Calls of so few tokens keep all intermediates, which are small, in however many chunks they run."""
_MIN_CHUNK = 72
"""Tokens at least where there are many chunks: 72 take 0.88 to 1.02 of the time of 136 where activations are 4096 wide."""
_WIDE_MATRIX = 1 << 15
"""Elements of a wide matrix."""
_LARGE_CHUNK = 1000
"""Tokens below which packing a large matrix anew for every chunk costs more than 2%."""
_WITH_GRADIENT = 2
"""What a dense layer holds for each weight in a backward pass: itself and its gradient."""
_WITH_MOMENTS = 4
"""What it holds while it is trained: Adam's two moments too."""
_DEAR = 128
"""Elements summed over beyond which computing an intermediate anew is always dearer than keeping it."""


@lru_cache(maxsize=4096)
def chunks(plan: Plan, tokens: int, is_cpu: bool = True) -> tuple[int, ...]:
    """The length of every chunk of tokens, all nearly the same; a GPU, for which every call is dear, takes one.

    Lengths of an odd number of eights keep the rows of feature-major intermediates from
    falling onto the same cache lines.
    """
    least = _lengths.of_few if tokens <= _FEW_TOKENS else _MIN_CHUNK
    if plan.params > _MANY_PARAMS:
        least = _lengths.of_many_params
    largest = max(step.matrix_elements for step in plan.steps)
    elements = _lengths.wide_elements if largest >= _WIDE_MATRIX else _lengths.elements
    wanted = max(least, elements // max(plan.widths))
    if largest > _lengths.large_matrix:
        wanted = max(wanted, _LARGE_CHUNK)
    if not is_cpu or plan.is_dense or 2 * tokens <= 3 * wanted:
        return (tokens,)
    length = -(-tokens // -(-tokens // wanted))
    length += -length % 8
    length += 8 * (length // 8 % 2 == 0)
    whole, rest = divmod(tokens, length)
    return (length,) * whole + (rest,) * bool(rest)


@lru_cache(maxsize=4096)
def kept_steps(plan: Plan, tokens: int, is_cpu: bool = True) -> tuple[bool, ...]:
    """Whether the result of each step but the last is kept for the backward pass, rather than computed anew.

    First results are, as many as leave the layer with no more than a dense one needs, and those that are dear; and in a
    call of few tokens, or of a single chunk, whose backward pass would have to hold them at once anyway, all. A single
    result as wide as the input is kept sooner, as the input's gradient will take its memory.
    """
    between, dense = plan.widths[1:-1], plan.padded_in * plan.padded_out
    if len(chunks(plan, tokens, is_cpu)) == 1 or tokens <= _FEW_TOKENS:
        return (True,) * len(between)
    room = _WITH_MOMENTS * dense if between == (plan.padded_in,) else _WITH_GRADIENT * (dense - plan.params)
    keeps = []
    for step, width in zip(plan.steps, between, strict=False):
        fits = tokens * width <= room
        room -= tokens * width if fits else 0
        keeps.append(fits or step.weight_shape[1] > _DEAR)
    return tuple(keeps)


@lru_cache(maxsize=1024)
def kept_when_compiled(plan: Plan, is_cpu: bool, itemsize: int) -> tuple[bool, ...]:
    """The same for compiled code, which serves any number of tokens: what is no wider than the input, or dear; all on a GPU.

    Not where one kernel keeps it on the chip there.
    """
    between = plan.widths[1:-1]
    if not is_cpu:
        return (not is_fused(plan, is_cpu, itemsize),) * len(between)
    return tuple(
        width <= plan.padded_in or step.weight_shape[1] > _DEAR
        for step, width in zip(plan.steps, between, strict=False)
    )
