"""A layer as one matrix, which it forms from its factors at each call, with the scale of its cap and gain.

So a narrow layer comes near to `nn.Linear`: the gradient of the matrix is one product, from which those of the factors
follow. The scale rides on the products. Every operation counts, even a view: each takes 1 to 6 µs in a training step
that takes `nn.Linear` 95 µs (width 32, 512 tokens).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.double_backward import (
    differentiable_gradients,
    needs_obvious_gradients,
    obvious_layer,
)
from einsearch_cli.layers.contractions.forming import Forming
from einsearch_cli.layers.contractions.generated import nothing_like
from einsearch_cli.layers.contractions.passes import may_keep
from einsearch_cli.layers.contractions.rms_scale import caps, scale_product
from einsearch_cli.layers.plans.plan import Plan

_addmm, _full_like = torch.addmm, torch.full_like


class FormedSettings(NamedTuple):
    """What `apply_formed_matrix` needs beside its tensors."""

    plan: Plan
    """The factors one after another."""
    stds: tuple[float, ...]
    at_cap: tuple[float, ...]
    """Norms of the factors at their caps."""
    forming: Forming


class _FormedMatrix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: FormedSettings, x: Tensor, gain: Tensor, bias: Tensor | None, *factors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, gain, bias, *factors)
        cap, norms = caps(factors, settings.at_cap)
        formed = settings.forming.forward(factors)
        scale = gain.item() * cap
        ctx.values = settings, cap, norms, scale
        ctx.formed = formed if may_keep() else None
        return _multiply(x, formed[0], bias, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, *factors = ctx.saved_tensors
        settings, cap, norms, scale = ctx.values
        (grad,) = grads
        wanted = ctx.needs_input_grad
        if needs_obvious_gradients(grad):
            function = obvious_layer(settings.plan, settings.stds)
            return None, *differentiable_gradients(function, (x, gain, bias, *factors), grad, wanted[1:])
        formed, ctx.formed = ctx.formed, None  # a second pass over the same graph forms it once more
        matrix, *kept = formed or settings.forming.forward(factors)
        _, wants_x, wants_gain, wants_bias, *wants_factors = wanted
        rows = x
        if x.ndim != 2:
            rows, grad = _rows(x), _rows(grad)
        if scale != scale:  # taken for 1 by MKL's products on processors of Intel
            grad = grad * scale
        nothing = nothing_like(x)
        x_grad = _addmm(nothing, grad, matrix.t(), beta=0, alpha=scale) if wants_x else None
        gain_grad, found = None, (None,) * len(factors)
        if wants_gain or True in wants_factors:
            # Of the matrix that multiplies rows: the scale's gradient is lost where the scale is zero.
            matrix_grad = _addmm(nothing, rows.t(), grad, beta=0, alpha=scale or 1.0)
            per_scale = scale_product(scale, rows, x_grad, matrix, matrix_grad)
            gain_grad = _full_like(gain, per_scale * cap / (scale or 1.0)) if wants_gain else None
            found = settings.forming.backward(matrix_grad if scale else matrix_grad.zero_(), kept)
            for factor, factor_grad, norm in zip(factors, found, norms):  # noqa: B905  (0.2 µs)
                if norm and scale:  # a factor above its cap has a part through its norm
                    factor_grad.add_(factor, alpha=-per_scale / norm**2)
            if False in wants_factors:
                found = tuple(part if wants else None for part, wants in zip(found, wants_factors, strict=True))
        bias_grad = grad.sum(0) if wants_bias else None
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return None, x_grad, gain_grad, bias_grad, *found


def multiply_formed_matrix(
    settings: FormedSettings, x: Tensor, gain: Tensor, bias: Tensor | None, *factors: Tensor
) -> Tensor:
    """The forward pass alone, for calls without gradients."""
    matrix, *_ = settings.forming.forward(factors)
    return _multiply(x, matrix, bias, gain.item() * caps(factors, settings.at_cap)[0])


def _multiply(x: Tensor, matrix: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if scale != scale:  # taken for 1 by MKL's products on processors of Intel
        x = x * scale
    if bias is not None and x.ndim == 2:
        return _addmm(bias, x, matrix, alpha=scale)
    # Not a view of rows, of which torch would keep account.
    y = x.new_empty(*x.shape[:-1], matrix.shape[1])
    rows = y.view(-1, matrix.shape[1])
    _addmm(rows if bias is None else bias, _rows(x), matrix, beta=bias is not None, alpha=scale, out=rows)
    return y


apply_formed_matrix: Any = super(torch.autograd.Function, _FormedMatrix).apply
"""`_FormedMatrix.apply` without its look at every argument for function transforms, as in `chunked`."""


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
