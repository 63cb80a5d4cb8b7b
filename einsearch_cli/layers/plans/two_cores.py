"""Tensor-Trains of two cores, of which Kronecker products are those without a bond: what a fused kernel needs to know.

For each token the input is a matrix X (P × Q) and the output a matrix Y (M × N), with Y = Σ_r F_rᵀ X S_r. Both cores
together are small, so that a kernel holds them, X and Y on the chip, and no intermediate reaches memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plans.plan import Plan

_LARGEST = 128
"""Sizes up to which X, Y and both cores fit on the chip together: widths up to 16,384."""
_LARGEST_BOND = 16
"""The kernel is written out for each of its values."""


class TwoCores(NamedTuple):
    """Sizes, and strides in elements; indices as in the formula above."""

    sizes: tuple[int, int, int, int, int]
    """P, Q, M, N and R; R is 1 where there is no bond."""
    x: tuple[int, int]
    """Strides of p and q among the features of a token."""
    y: tuple[int, int]
    """Strides of m and n."""
    first: tuple[int, int, int]
    """Strides of p, m and r in the stored factor."""
    second: tuple[int, int, int]
    """Strides of q, n and r."""

    @property
    def transposed(self) -> TwoCores:
        """The transposed matrix, with the same stored factors: it leads from gradients of Y to those of X."""
        (p, q, m, n, r), first, second = self.sizes, self.first, self.second
        return TwoCores(
            (m, n, p, q, r), self.y, self.x, (first[1], first[0], first[2]), (second[1], second[0], second[2])
        )


@lru_cache(maxsize=1024)
def two_cores(plan: Plan) -> TwoCores | None:
    """None if the plan is none of these, or too large.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> two_cores(EinsumLinear(64, 64, "tt:r=2", device="meta").plan).sizes
    (8, 8, 8, 8, 2)
    >>> two_cores(EinsumLinear(64, 64, "monarch", device="meta").plan) is None
    True
    """
    if len(plan.steps) != 2 or len(plan.input_order) != 2 or len(plan.output_order) != 2:
        return None
    (first_batch, first_in, first_out), (second_batch, second_in, second_out) = (s.weight_axes for s in plan.steps)
    bond = tuple(set(first_out) & set(second_in))
    is_pair = len(first_in) == len(second_out) == 1 and len(bond) <= 1
    if first_batch or second_batch or not is_pair:
        return None
    (p,), (n,) = first_in, second_out
    q, m = _other(plan.input_order, p), _other(plan.output_order, n)
    if {q, *bond} != set(second_in) or {m, *bond} != set(first_out):
        return None
    first, second = plan.steps
    p_size, n_size = first.weight_shape[1], second.weight_shape[2]
    q_size, m_size = plan.padded_in // p_size, plan.padded_out // n_size
    r_size = first.weight_shape[2] // m_size
    if max(p_size, q_size, m_size, n_size) > _LARGEST or r_size > _LARGEST_BOND:
        return None
    sizes = {p: p_size, q: q_size, m: m_size, n: n_size, **dict.fromkeys(bond, r_size)}
    x, y, one, other = (
        _strides(order, sizes) for order in (plan.input_order, plan.output_order, first.axes, second.axes)
    )
    r = bond[0] if bond else ""
    return TwoCores(
        (p_size, q_size, m_size, n_size, r_size),
        (x[p], x[q]),
        (y[m], y[n]),
        (one[p], one[m], one.get(r, 0)),
        (other[q], other[n], other.get(r, 0)),
    )


def is_fused(plan: Plan, is_cpu: bool, itemsize: int) -> bool:
    """Whether one kernel keeps the intermediate on the chip: two cores in half precision on a GPU.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> plan = EinsumLinear(64, 64, "kronecker", device="meta").plan
    >>> is_fused(plan, is_cpu=False, itemsize=2), is_fused(plan, is_cpu=False, itemsize=4)
    (True, False)
    """
    return not is_cpu and itemsize == 2 and two_cores(plan) is not None


def _other(pair: tuple[str, ...], one: str) -> str:
    first, second = pair
    return second if one == first else first


def _strides(order: Sequence[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """Strides of the axes of contiguous memory, slowest first."""
    return {axis: math.prod(sizes[inner] for inner in order[place + 1 :]) for place, axis in enumerate(order)}
