"""The market of small structures, and the slow, obvious route to their dense matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear


@dataclass(frozen=True)
class Case:
    """One structure at one size."""

    text: str
    d_in: int
    d_out: int

    def layer(self, bias: bool = True, seed: int = 0, cap: bool = False) -> EinsumLinear:
        """A float64 layer with random parameters; with `cap` every rms is above its cap, else below."""
        torch.manual_seed(seed)
        layer = EinsumLinear(self.d_in, self.d_out, self.text, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            for factor in layer.factors.values():
                factor.mul_((2.0 if cap else 0.5) / factor.square().mean().sqrt()).mul_(stds(layer)[id(factor)])
            layer.gain.fill_(1.25)
            if layer.bias is not None:
                layer.bias.normal_()
        return layer


def stds(layer: EinsumLinear) -> dict[int, float]:
    return {id(layer.factors[role.factor]): role.init_std for role in layer.plan.roles}


MARKET = {
    "dense": Case("dense", 6, 10),
    "low-rank": Case("low-rank:r=3", 12, 8),
    "kronecker": Case("kronecker", 36, 16),
    "tt": Case("tt:r=3", 16, 36),
    "one-sided": Case("XA^1 YA^1/2 YB^1/2 AB=2", 9, 16),
    "monarch": Case("monarch", 36, 16),
    "monarch-blocks": Case("monarch:blocks=4", 24, 16),
    "btt-1": Case("btt:r=1", 16, 36),
    "btt-2": Case("btt:r=2", 36, 16),
    "block-dense": Case("block-dense:blocks=4,r=8", 24, 10),
    "block-shuffle": Case("block-shuffle:blocks=2", 16, 24),
    "generic": Case("XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4 AB=3", 81, 16),
    "generic-rank-1": Case("XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4", 16, 81),
    "outer-first": Case("XAB^1 YA^1/2 YB^1/2", 8, 16),
    "prime-in-and-out": Case("btt:r=2", 13, 17),
    "prime-in": Case("kronecker", 11, 16),
    "prime-out": Case("monarch", 16, 19),
    "one-by-one": Case("monarch", 1, 1),
    "chain-of-three": Case("XA^1 AB=3 BC=4 YC^1", 8, 6),
    "kronecker-of-three": Case("XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3", 27, 8),
    "bond-of-three": Case("XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3 ABC=3", 8, 27),
    "input-of-two": Case("XAC^1/2 XB^1/2 YB^1/2 YC^1/2 AB=2 ABC=2", 16, 16),
    "all-of-three": Case("XA^1/4 XB^1/4 XABC^1/2 YB^1/4 YC^1/4 YABC^1/2 ABC=2 AC=3", 16, 16),
}


@pytest.fixture(params=MARKET.values(), ids=MARKET.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def market() -> dict[str, Case]:
    return MARKET


@pytest.fixture(scope="session")
def dense_by_columns() -> Callable[[EinsumLinear], Tensor]:
    return _dense_by_columns


@torch.no_grad()
def _dense_by_columns(layer: EinsumLinear) -> Tensor:
    """W, padding cut, from the definition: one column for every setting of the input indices.

    Nothing of the layer's own contraction is used: a column is the sum, over
    all settings of the remaining indices, of the product of factor entries.
    """
    sized = layer.sized
    factors = {factor: layer.factor_tensor(factor) for factor in sized.factors}
    scale = layer.gain.item()
    for role in layer.plan.roles:
        rms = layer.factors[role.factor].square().mean().sqrt()
        std = math.sqrt(min(role.fan_in, role.fan_out) / role.fan_in**2)
        scale = scale / max(1.0, (rms / std).item())
    inputs, outputs = (_in_order(layer, tensor) for tensor in "XY")
    letters = sized.letters
    columns = []
    for setting in _settings(layer, inputs):
        fixed = dict(zip(inputs, setting, strict=True))
        operands = [_slice(factors[f], sized.carriers_of(f), fixed) for f in sized.factors]
        left = ["".join(letters[c] for c in sized.carriers_of(f) if c not in fixed) for f in sized.factors]
        # Every index of Y is carried by a factor, so this cannot be an output index alone.
        column = torch.einsum(f"{','.join(left)}->{''.join(letters[c] for c in outputs)}", *operands)
        columns.append(column.reshape(-1))
    return (torch.stack(columns, dim=1) * scale)[: layer.out_features, : layer.in_features]


def _in_order(layer: EinsumLinear, tensor: str) -> list[str]:
    """The indices of X or Y in the layer's order; those of size 1 first."""
    order = layer.plan.input_order if tensor == "X" else layer.plan.output_order
    return [c for c in layer.sized.carriers_of(tensor) if c not in order] + list(order)


def _settings(layer: EinsumLinear, carriers: list[str]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(layer.sized.size(c)) for c in carriers))


def _slice(tensor: Tensor, carriers: tuple[str, ...], fixed: dict[str, int]) -> Tensor:
    return tensor[tuple(fixed.get(c, slice(None)) for c in carriers)]
