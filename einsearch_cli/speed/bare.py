"""The rivals of a layer: its matrix products alone, and one `torch.einsum` after another.

No code around the products can beat their time, though a merged matrix may.

The products have contiguous operands, preallocated results, no views that need a copy, no bias and no scaling. A batch
of one is an ordinary product. Where the plan reads tokens as a batch, the bare product has all rows in one matrix
instead.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `layers.plans.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.plan import Plan, Step
from einsearch_cli.speed.cases import Case, Mode

_ALIGNMENT = 1024
"""The start of every operand is a multiple of this number of elements."""


class Arena:
    """Memory from which the operands of one layer after another are cut.

    Results use another arena. So no operand is ever a result of an earlier call, which would grow from call to call.
    """

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        self._used = 0

    def start_again(self) -> None:
        self._used = 0

    def take(self, *shape: int) -> Tensor:
        """A contiguous tensor of the next free elements."""
        begin, size = self._used, math.prod(shape)
        self._used = begin + size + -size % _ALIGNMENT
        return self._memory[begin : begin + size].view(shape)


def product_sizes(step: Step, tokens: int) -> tuple[int, int, int, int]:
    """B, R, K and N of the bare product.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> [product_sizes(step, 10) for step in EinsumLinear(64, 64, "monarch", device="meta").plan.steps]
    [(8, 10, 8, 8), (8, 10, 8, 8)]
    """
    batch, rows, contracted, new = step.extents(tokens)
    own = step.weight_shape[0]
    if step.is_along_tokens:
        return own, batch * rows // own, contracted, new
    return batch, rows, contracted, new


Arenas = tuple[Arena, Arena]
"""Two arenas: one with the operands of the bare products of every layer of a case, one for their results."""


def arenas_for(plans: Sequence[Plan], tokens: int, device: torch.device, dtype: torch.dtype) -> Arenas:
    """Arenas that are large enough for the largest of these layers."""
    elements = 0
    for plan in plans:
        sizes = (product_sizes(step, tokens) for step in plan.steps)
        parts = (part for b, r, k, n in sizes for part in (b * r * k, b * k * n, b * r * n))
        elements = max(elements, sum(part + -part % _ALIGNMENT for part in parts))
    operands, results = (make(elements, device=device, dtype=dtype) for make in (torch.randn, torch.zeros))
    return Arena(operands), Arena(results)


def bare_products(plan: Plan, case: Case, arenas: Arenas) -> Callable[[], None]:
    """All products of one call; two more for each in training, for the gradients of rows and factor."""
    operands, results = arenas
    operands.start_again()
    results.start_again()
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in plan.steps:
        b, r, k, n = product_sizes(step, case.tokens)
        rows_BRK, weight_BKN = operands.take(b, r, k), operands.take(b, k, n)
        products.append((rows_BRK, weight_BKN, results.take(b, r, n)))
        if case.mode is Mode.training:
            grad_BRN = operands.take(b, r, n)
            products.append((grad_BRN, weight_BKN.transpose(1, 2), results.take(b, r, k)))
            products.append((rows_BRK.transpose(1, 2), grad_BRN, results.take(b, k, n)))

    def run() -> None:
        for left, right, into in products:
            if left.shape[0] == 1:
                torch.mm(left[0], right[0], out=into[0])
            else:
                torch.bmm(left, right, out=into)

    return run


def einsum_route(layer: EinsumLinear) -> Callable[[Tensor], Tensor]:
    """The layer's map from (tokens, padded_in), computed from the factors by einsum, unscaled and without bias.

    Features are read and written in the order of the layer's own plan, so that it is
    the same map.

    >>> layer = EinsumLinear(16, 16, "monarch")
    >>> x = torch.randn(2, 16)
    >>> y, expected = einsum_route(layer)(x), layer(x)
    >>> torch.allclose(y / y.norm(), expected / expected.norm(), atol=1e-5)
    True
    """
    plan, sized = layer.plan, layer.sized
    letters = sized.letters

    def text(axes: Sequence[str]) -> str:
        return "".join(letters[axis] for axis in axes)

    activation = _in_order(sized.carriers_of("X"), plan.input_order)
    input_shape = [sized.size(axis) for axis in activation]
    operations: list[tuple[str, Tensor]] = []
    for number, role in enumerate(plan.roles):
        result = (*role.batch, *role.kept, *role.new)
        if number + 1 == len(plan.roles):
            result = _in_order(result, plan.output_order)
        equation = f"...{text(activation)},{text(sized.carriers_of(role.factor))}->...{text(result)}"
        operations.append((equation, layer.factor_tensor(role.factor).detach().contiguous()))
        activation = result

    def run(x: Tensor) -> Tensor:
        result = x.reshape(-1, *input_shape)
        for equation, factor in operations:
            result = torch.einsum(equation, result, factor)
        return result.reshape(-1, plan.padded_out)

    return run


def _in_order(axes: Sequence[str], first: Sequence[str]) -> tuple[str, ...]:
    """The axes in `first`, followed by those that it leaves out, which have size 1."""
    return (*first, *(axis for axis in axes if axis not in first))
