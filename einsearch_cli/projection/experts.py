"""Projection of packed dense matrices of experts, one after another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.moe.experts import Experts
from einsearch_cli.projection.projecting import project_


@torch.no_grad()
def project_experts_(experts: Experts, weight_EOI: Tensor) -> float:
    """Give every expert the factors nearest to its dense matrix; returns ‖W − structured W‖ / ‖W‖ over all experts.

    One order of features serves all experts. If it is open, the best one for the first expert is taken.

    Args:
        experts: structured matrices; they are overwritten.
        weight_EOI: the dense matrices, (experts, out_features, in_features).

    Raises:
        LayerError: if a weight is not finite.
    """
    dtype, squared_error, squared_norm = experts.gain.dtype, 0.0, 0.0
    for index, weight in enumerate(weight_EOI):
        order = None if experts.is_order_open else str(experts.order)
        layer = EinsumLinear(
            experts.in_features, experts.out_features, experts.structure, bias=False, dtype=dtype, order=order
        )
        found = project_(layer, weight)
        if experts.is_order_open:
            experts.order = layer.order
        for name, factor in layer.factors.items():
            experts.factors[name][index].copy_(factor)
        experts.gain[index] = layer.gain[0]
        norm = torch.linalg.vector_norm(weight.double()).item()
        squared_norm += norm**2
        squared_error += (found.relative_error * norm) ** 2
    return math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
