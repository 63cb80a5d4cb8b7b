"""The route that is written down first: one `torch.einsum` after another, with the copies it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear


def einsum_route(layer: EinsumLinear) -> Callable[[Tensor], Tensor]:
    """What the layer's factors do to (tokens, padded_in), unscaled and without bias.

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
    """`first`, then what it leaves out: indices of size 1."""
    return (*first, *(axis for axis in axes if axis not in first))
