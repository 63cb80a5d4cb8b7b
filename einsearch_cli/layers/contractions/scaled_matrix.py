"""A layer that is one matrix, with the scale of its cap and gain: `nn.Linear` and no more than that.

Every pass over the matrix counts here: the scale rides on the products, and its gradient
takes one pass over what is smaller, the input or the matrix.
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
from einsearch_cli.layers.contractions.rms_scale import caps, scale_product, scale_value
from einsearch_cli.layers.plans.plan import Plan

_addmm = torch.addmm


class ScaledMatrixSettings(NamedTuple):
    """What `apply_scaled_matrix` needs beside its tensors."""

    plan: Plan
    stds: tuple[float, ...]


class _ScaledMatrix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: ScaledMatrixSettings, x: Tensor, gain: Tensor, bias: Tensor | None, factor: Tensor
    ) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(x, gain, bias, factor)
        ctx.cap, (ctx.norm,) = caps((factor,), settings.stds)
        ctx.scale = scale = gain.item() * ctx.cap
        return _multiply(x, factor[0], bias, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, factor = ctx.saved_tensors
        wanted, (grad,) = ctx.needs_input_grad, grads
        if needs_obvious_gradients(grad):
            plan, stds = ctx.settings
            return None, *differentiable_gradients(obvious_layer(plan, stds), (x, gain, bias, factor), grad, wanted[1:])
        if x.ndim != 2:
            x, grad = _rows(x), _rows(grad)
        _, wants_x, wants_gain, wants_bias, wants_factor = wanted
        scale, norm = ctx.scale, ctx.norm
        if scale != scale:
            grad = grad * scale
        bias_grad = grad.sum(0) if wants_bias else None
        x_grad = gain_grad = factor_grad = None
        if wants_x:
            x_grad = torch.empty_like(x)
            _addmm(x_grad, grad, factor[0].t(), beta=0, alpha=scale, out=x_grad)
        if wants_factor or wants_gain:
            factor_grad = torch.empty_like(factor)
            # Of the matrix that multiplies rows: the scale's gradient is lost where the scale is zero.
            _addmm(factor_grad[0], x.t(), grad, beta=0, alpha=scale or 1.0, out=factor_grad[0])
        is_capped = norm and wants_factor and scale  # then the factor's gradient has a part through its norm
        if wants_gain or is_capped:
            per_scale = scale_product(scale, x, x_grad, factor, factor_grad)
            if is_capped and factor_grad is not None:
                factor_grad.add_(factor, alpha=-per_scale / norm**2)
            gain_grad = torch.full_like(gain, per_scale * ctx.cap / (scale or 1.0)) if wants_gain else None
        if scale == 0 and factor_grad is not None:
            factor_grad.zero_()
        if x_grad is not None and grads[0].ndim != 2:
            x_grad = x_grad.view(*grads[0].shape[:-1], x_grad.shape[1])
        return None, x_grad, gain_grad, bias_grad, factor_grad


def multiply_scaled_matrix(
    settings: ScaledMatrixSettings, x: Tensor, gain: Tensor, bias: Tensor | None, factor: Tensor
) -> Tensor:
    """The forward pass alone, for calls without gradients."""
    return _multiply(x, factor[0], bias, scale_value(gain, (factor,), settings.stds))


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if scale != scale:  # taken for 1 by MKL's products on processors of Intel
        x = x * scale
    if x.ndim == 2 and bias is not None:
        return _addmm(bias, x, weight, alpha=scale)
    # Not a view of rows, of which torch would keep account.
    y = x.new_empty(*x.shape[:-1], weight.shape[1])
    rows = y.view(-1, weight.shape[1])
    _addmm(rows if bias is None else bias, _rows(x), weight, beta=bias is not None, alpha=scale, out=rows)
    return y


apply_scaled_matrix: Any = super(torch.autograd.Function, _ScaledMatrix).apply
"""`_ScaledMatrix.apply` without its look at every argument for function transforms, as in `chunked`."""


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
