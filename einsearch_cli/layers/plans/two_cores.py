"""Tensor-Trains of two cores, or Kronecker products without a bond: the data for a fused kernel.

For each token, the input is a matrix X (P × Q) and the output a matrix Y (M × N), with Y = Σ_r F_rᵀ X S_r. Both cores
together are small, so a kernel holds them, X and Y on the chip, and no intermediate reaches memory.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.plan import Call, Plan

_LARGEST = 128
"""Sizes up to which X, Y and both cores fit on the chip together: widths up to 16,384."""
_LARGEST_BOND = 16
"""The largest bond: the kernel is written out for each of its values."""


class TwoCores(NamedTuple):
    """Sizes, and strides in elements; indices are named as in the formula above."""

    sizes: tuple[int, int, int, int, int]
    """P, Q, M, N and R; R is 1 without a bond."""
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
        """The transposed matrix with the same stored factors, which leads from gradients of Y to those of X."""
        (p, q, m, n, r), first, second = self.sizes, self.first, self.second
        return TwoCores(
            (m, n, p, q, r), self.y, self.x, (first[1], first[0], first[2]), (second[1], second[0], second[2])
        )


@lru_cache(maxsize=1024)
def two_cores(plan: Plan) -> TwoCores | None:
    """The two cores of a plan; None if it has another form, or is too large.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> two_cores(EinsumLinear(64, 64, "tt:r=2", device="meta").plan).sizes
    (8, 8, 8, 8, 2)
    >>> two_cores(EinsumLinear(64, 64, "monarch", device="meta").plan) is None
    True
    """
    if len(plan.steps) != 2 or len(plan.input_order) != 2 or len(plan.output_order) != 2:
        return None
    first, second = plan.steps
    (first_batch, first_in, first_out), (second_batch, second_in, second_out) = first.weight_axes, second.weight_axes
    bond = set(first_out) & set(second_in)
    is_pair = len(first_in) == len(second_out) == 1 and len(bond) <= 1
    if first_batch or second_batch or not is_pair:
        return None
    (p,), (n,), r = first_in, second_out, next(iter(bond), "")
    (q, *_), (m, *_) = set(plan.input_order) - {p}, set(plan.output_order) - {n}
    if {q, *bond} != set(second_in) or {m, *bond} != set(first_out):
        return None
    sizes = {axis: plan.sized.size(axis) if axis else 1 for axis in (p, q, m, n, r)}
    if max(sizes[axis] for axis in (p, q, m, n)) > _LARGEST or sizes[r] > _LARGEST_BOND:
        return None
    x, y, one, other = (
        {axis: math.prod(sizes[inner] for inner in order[place + 1 :]) for place, axis in enumerate(order)}
        for order in (plan.input_order, plan.output_order, first.axes, second.axes)
    )
    return TwoCores(
        (sizes[p], sizes[q], sizes[m], sizes[n], sizes[r]),
        (x[p], x[q]),
        (y[m], y[n]),
        (one[p], one[m], one.get(r, 0)),
        (other[q], other[n], other.get(r, 0)),
    )


def is_fused(plan: Plan, place: Call | MachineProfile) -> bool:
    """Whether one kernel keeps the intermediate on the chip: two cores in half precision on a GPU."""
    return not place.is_cpu and place.itemsize == 2 and two_cores(plan) is not None
