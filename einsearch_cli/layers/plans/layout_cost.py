"""What passes over memory cost, relative to the arithmetic, for choosing a layout.

Only proportions matter: they decide between layouts of the same arithmetic, never how long anything will take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU
from einsearch_cli.layers.plans.plan import TOKENS, Axes, FactorRole, innermost, is_view, product_of

COSTS: Final = DEFAULT_CPU.layout
"""On every machine: stored factors and features lie in the order that is chosen by them."""


def copy_ns(source: Axes, target: Axes, sizes: Mapping[str, int]) -> float:
    """Rearranging an activation that lies as `source` into `target`; zero if that moves nothing."""
    if source == target:
        return 0.0
    run = 1
    for a, b in zip(reversed(source), reversed(target), strict=True):
        if a != b:
            break
        run *= sizes[a]
    return product_of(source, sizes) * min(COSTS.transpose_ns, COSTS.copy_ns + COSTS.run_ns / run)


def read_ns(memory: Axes, groups: tuple[Axes, Axes, Axes], sizes: Mapping[str, int]) -> float:
    """Reading batch, rows and contracted axes for a product: free as a view, else a copy."""
    if is_view(memory, groups):
        return 0.0
    batch, rows, contracted = groups
    target = (*batch, *contracted, *rows) if innermost(memory, rows) else (*batch, *rows, *contracted)
    return copy_ns(memory, target, sizes)


def product_ns(b: int, r: int, k: int, n: int, rows_inside: bool, feature_major: bool) -> float:
    """One batched product of (B, R, K) and (B, K, N).

    Measured for 32 × 32 matrices and 120 to 256 tokens against contiguous operands: strided
    rows cost 10–30%, results with the features innermost from rows with the tokens innermost 12%.
    """
    strided = b > 1
    factor = 1.0
    if rows_inside:
        factor += 0.05 if feature_major else 0.12
    elif strided:
        factor += 0.15 if feature_major else 0.3
    return b * r * k * n * COSTS.mac_ns * factor * _narrowness(k, n)


def weight_grad_ns(b: int, r: int, k: int, n: int, rows_inside: bool, grad_rows_inside: bool) -> float:
    """The gradient of a factor, contracted over R, best when just one operand has R innermost."""
    factor = {2: 1.45, 1: 1.0, 0: 1.2}[rows_inside + grad_rows_inside]
    return b * r * k * n * COSTS.mac_ns * factor * _narrowness(k, n)


def repeat_ns(role: FactorRole, batch: Axes, elements: int) -> float:
    """Copying a factor of so many elements, repetitions counted, once forward and twice backward."""
    if set(batch) <= set(role.batch):
        return 0.0
    # Along the tokens the factor is not copied, but its gradient is summed over them.
    return (1.0 if TOKENS in batch else 3.0) * elements * COSTS.copy_ns


def _narrowness(k: int, n: int) -> float:
    return math.sqrt(max(1.0, COSTS.small / min(k, n)))
