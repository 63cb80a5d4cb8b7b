"""How a call is cut into chunks of tokens, and which intermediates are kept for the backward pass."""

from __future__ import annotations

from functools import lru_cache

from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, ChunkLengths
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.two_cores import is_fused

_WITH_GRADIENT = 2
"""Numbers that a dense layer holds per weight in a backward pass: itself and its gradient."""
_WITH_MOMENTS = 4
"""Numbers that it holds per weight in training, with Adam's two moments."""
_DEAR = 128
"""Summed elements beyond which recomputing an intermediate always costs more than keeping it."""


@lru_cache(maxsize=4096)
def chunks(plan: Plan, tokens: int, lengths: ChunkLengths | None = DEFAULT_CPU.chunks) -> tuple[int, ...]:
    """The length of every chunk of tokens, all nearly equal; a single chunk without lengths, as for a GPU."""
    if lengths is None or plan.is_dense:
        return (tokens,)
    least = lengths.of_few if tokens <= lengths.few else lengths.least
    if plan.params > lengths.many_params:
        least = lengths.of_many_params
    largest = max(step.matrix_elements for step in plan.steps)
    elements = lengths.wide_elements if largest >= lengths.wide_matrix else lengths.elements
    wanted = max(least, elements // max(plan.widths))
    if largest > lengths.large_matrix:
        wanted = max(wanted, lengths.large)
    if 2 * tokens <= 3 * wanted:
        return (tokens,)
    length = -(-tokens // -(-tokens // wanted))
    # An odd multiple of 8 keeps the rows of feature-major intermediates from sharing cache lines.
    length += -length % 8
    length += 8 * (length // 8 % 2 == 0)
    whole, rest = divmod(tokens, length)
    return (length,) * whole + (rest,) * bool(rest)


@lru_cache(maxsize=4096)
def kept_steps(plan: Plan, tokens: int, lengths: ChunkLengths | None = DEFAULT_CPU.chunks) -> tuple[bool, ...]:
    """Whether the result of each step but the last is kept for the backward pass, rather than recomputed.

    The earliest results are kept as long as the layer needs no more memory than a dense one, plus all results that are
    expensive to recompute. Calls with few tokens or a single chunk keep everything: their backward pass would hold it
    all at once anyway. A single result as wide as the input is kept sooner, as the input's gradient will reuse its
    memory.
    """
    between, dense = plan.widths[1:-1], plan.padded_in * plan.padded_out
    if lengths is None or len(chunks(plan, tokens, lengths)) == 1 or tokens <= lengths.few:
        return (True,) * len(between)
    room = _WITH_MOMENTS * dense if between == (plan.padded_in,) else _WITH_GRADIENT * (dense - plan.params)
    keeps = []
    for step, width in zip(plan.steps, between, strict=False):
        fits = tokens * width <= room
        room -= tokens * width if fits else 0
        keeps.append(fits or step.weight_shape[1] > _DEAR)
    return tuple(keeps)


@lru_cache(maxsize=1024)
def kept_when_compiled(plan: Plan, call: Call) -> tuple[bool, ...]:
    """The steps to keep in compiled code, which serves any number of tokens; see `kept_steps`.

    On a CPU, these are results no wider than the input or expensive to recompute; on a GPU, all but those that one
    kernel keeps on the chip.
    """
    between = plan.widths[1:-1]
    if not call.is_cpu:
        return (not is_fused(plan, call),) * len(between)
    steps = zip(plan.steps, between, strict=False)
    return tuple(width <= plan.padded_in or step.weight_shape[1] > _DEAR for step, width in steps)
