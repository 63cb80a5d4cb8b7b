"""Gradients that can be differentiated again, by the obvious route."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.contraction import contract
from einsearch_cli.layers.plan import Plan
from einsearch_cli.layers.rms_scale import rms_scale


def differentiable_gradients(
    plan: Plan, stds: Sequence[float], inputs: Sequence[Tensor | None], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Of x, gain, bias and factors, the `inputs`, where wanted; without a gain nothing is scaled.

    x is (..., padded_in), grad (..., padded_out).
    """
    x, gain, bias, *weights = inputs
    assert x is not None
    factors = [weight for weight in weights if weight is not None]
    scaled = factors if gain is None else [*factors[:-1], factors[-1] * rms_scale(gain, factors, stds)]
    y = contract(plan, x.reshape(-1, x.shape[-1]), scaled)
    y = (y if bias is None else y + bias).reshape(grad.shape)
    asked = [tensor for tensor, wants in zip(inputs, wanted, strict=True) if wants and tensor is not None]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
