"""Into which chunks of tokens a call is cut, and which intermediates are kept for the backward pass."""

from __future__ import annotations

from functools import lru_cache

from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, ChunkLengths
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.two_cores import is_fused

_WITH_GRADIENT = 2
"""What a dense layer holds for each weight in a backward pass: itself and its gradient."""
_WITH_MOMENTS = 4
"""What it holds while it is trained: Adam's two moments too."""
_DEAR = 128
"""Elements summed over beyond which computing an intermediate again always costs more than keeping it."""


@lru_cache(maxsize=4096)
def chunks(plan: Plan, tokens: int, lengths: ChunkLengths | None = DEFAULT_CPU.chunks) -> tuple[int, ...]:
    """The length of every chunk of tokens, all nearly the same; a single one without lengths, as for a GPU."""
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
    # An odd number of eights keeps the rows of feature-major intermediates from falling onto the same cache lines.
    length += -length % 8
    length += 8 * (length // 8 % 2 == 0)
    whole, rest = divmod(tokens, length)
    return (length,) * whole + (rest,) * bool(rest)


@lru_cache(maxsize=4096)
def kept_steps(plan: Plan, tokens: int, lengths: ChunkLengths | None = DEFAULT_CPU.chunks) -> tuple[bool, ...]:
    """Whether the result of each step but the last is kept for the backward pass, rather than computed again.

    The earliest results are kept as long as the layer needs no more memory than a dense one, and all that are
    expensive to compute again. Calls of few tokens or of a single chunk keep everything: their backward pass would
    hold it all at once anyway. A single result as wide as the input is kept sooner, as the input's gradient will take
    its memory.
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
    """As `kept_steps` for compiled code, which serves any number of tokens.

    On a CPU what is no wider than the input or expensive to repeat; on a GPU all but what one kernel keeps on the chip.
    """
    between = plan.widths[1:-1]
    if not call.is_cpu:
        return (not is_fused(plan, call),) * len(between)
    steps = zip(plan.steps, between, strict=False)
    return tuple(width <= plan.padded_in or step.weight_shape[1] > _DEAR for step, width in steps)
