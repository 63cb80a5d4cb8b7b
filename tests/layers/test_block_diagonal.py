"""Indices that input and output share: the layer compared with its equation, one basis vector after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from einsearch_cli.errors import SizeError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.structures import Structure
from einsearch_cli.taxonomy import Space, classify, survivors

SHARED = [s for s in survivors(Space(2, 2, block_diagonal=True)) if s.is_block_diagonal]


def axes(layer: EinsumLinear, tensor: str) -> list[str]:
    """The indices of X or Y in the layer's order; those of size 1 first."""
    order = layer.plan.input_order if tensor == "X" else layer.plan.output_order
    return [c for c in layer.sized.carriers_of(tensor) if c not in order] + list(order)


@torch.no_grad()
def dense_by_the_equation(layer: EinsumLinear) -> Tensor:
    sized, letters = layer.sized, layer.sized.letters
    names = {tensor: "".join(letters[c] for c in axes(layer, tensor)) for tensor in "XY"}
    names |= {f: "".join(letters[c] for c in sized.carriers_of(f)) for f in sized.factors}
    factors = [layer.factor_tensor(f) for f in sized.factors]
    equation = f"{names['X']},{','.join(names[f] for f in sized.factors)}->{names['Y']}"
    columns = []
    for i in range(layer.in_features):
        x = torch.zeros(sized.padded_in, dtype=torch.float64)
        x[i] = 1
        x = x.reshape([sized.size(c) for c in axes(layer, "X")])
        columns.append(torch.einsum(equation, x, *factors).reshape(-1)[: layer.out_features])
    scale = layer.gain.item()
    for role in layer.plan.roles:
        scale /= max(1.0, (layer.factors[role.factor].square().mean().sqrt() / role.init_std).item())
    return torch.stack(columns, dim=1) * scale


@pytest.mark.parametrize(("d_in", "d_out"), [(16, 16), (16, 64), (7, 11), (1, 1)])
@pytest.mark.parametrize("structure", SHARED, ids=str)
def test_the_layer_is_its_equation(structure: Structure, d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    if d_in != d_out and not any("X" in c and "Y" not in c for c, _ in structure.indices):
        with pytest.raises(SizeError, match="the dimensions must be equal"):
            structure.at(d_in, d_out)
        return
    layer = EinsumLinear(d_in, d_out, structure, bias=False, dtype=torch.float64)
    expected = dense_by_the_equation(layer)
    x = torch.randn(3, d_in, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(layer.to_dense(), expected)
    assert torch.allclose(layer(x), x @ expected.T)
    assert layer.flops_per_token == classify(structure, d_in, d_out).flops_per_token
    layer(x).sum().backward()
    assert torch.allclose(x.grad, expected.sum(dim=0).expand(3, -1))
