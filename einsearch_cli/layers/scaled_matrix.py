"""A layer that is one matrix, with the scale of its cap and gain: `nn.Linear` and no more than that.

Every pass over the matrix counts here: the scale rides on the products, and its gradient
takes one pass over what is smaller, the input or the matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

from einsearch_cli.layers.rms_scale import caps, norm_dtype, rms_scale

_mm, _addmm = torch.mm, torch.addmm


def multiply_scaled(x: Tensor, gain: Tensor, bias: Tensor | None, factor: Tensor, std: float) -> Tensor:
    """`x` (..., fan_in) times `rms_scale(gain, [factor], [std])` times the factor (1, fan_in, fan_out), plus bias."""
    result: Tensor = _apply(std, unwrap_if_dead(x), gain, bias, factor)
    return result


class _ScaledMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, std: float, x: Tensor, gain: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
        ctx.std = std
        ctx.save_for_backward(x, gain, bias, factor)
        ctx.cap, (ctx.norm,) = caps((factor,), (std,))
        ctx.scale = scale = gain.item() * ctx.cap
        weight = factor[0]
        if x.ndim == 2 and bias is not None:
            return _addmm(bias, x, weight, alpha=scale)
        # Not a view of rows, of which torch would keep account.
        y = x.new_empty(*x.shape[:-1], weight.shape[1])
        rows = y.view(-1, weight.shape[1])
        _addmm(rows if bias is None else bias, _rows(x), weight, beta=bias is not None, alpha=scale, out=rows)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, factor = ctx.saved_tensors
        _, wants_x, wants_gain, wants_bias, wants_factor = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(
                ctx.std, (x, gain, bias, factor), grads[0], ctx.needs_input_grad[1:]
            )
        rows, grad, weight, scale = _rows(x), _rows(grads[0]), factor[0], ctx.scale
        x_grad = gain_grad = bias_grad = factor_grad = None
        if wants_x:
            x_grad = _scaled(grad, weight.mT, scale)
        if wants_bias:
            bias_grad = grad.sum(0)
        if wants_factor or wants_gain:
            # Of the matrix that multiplies rows: the scale's gradient is lost where the scale is zero.
            factor_grad = _scaled(rows.mT, grad, scale or 1.0)
        if wants_gain or ctx.norm:
            per_scale = _product_with_grad(rows, x_grad, weight, factor_grad, scale)
            gain_grad = (per_scale * (ctx.cap / scale if scale else ctx.cap)).view(1) if wants_gain else None
            if ctx.norm and factor_grad is not None and scale:
                factor_grad.add_(weight, alpha=-per_scale.item() / ctx.norm**2)
        if factor_grad is not None:
            factor_grad = factor_grad[None] if scale else torch.zeros_like(factor)
        return None, x_grad if x_grad is None else x_grad.view(x.shape), gain_grad, bias_grad, factor_grad


_apply: Any = super(torch.autograd.Function, _ScaledMatrix).apply
"""`_ScaledMatrix.apply` without its look at every argument for function transforms, as in `chunked`."""


def _product_with_grad(
    rows: Tensor, x_grad: Tensor | None, weight: Tensor, weight_grad: Tensor | None, scale: float
) -> Tensor:
    """scale · ∂L/∂scale = ⟨W, ∂L/∂W⟩ = ⟨x, ∂L/∂x⟩, by the smaller pair; without the scale where that is zero."""
    pair = weight, weight_grad
    if weight_grad is None or (scale and x_grad is not None and rows.numel() < weight.numel()):
        pair = rows, x_grad
    first, second = (tensor.reshape(-1) for tensor in pair if tensor is not None)
    dtype = norm_dtype(first.dtype)
    return torch.dot(first, second) if dtype is first.dtype else torch.dot(first.to(dtype), second.to(dtype))


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return _mm(left, right)
    result = left.new_empty(left.shape[0], right.shape[1])
    return _addmm(result, left, right, beta=0, alpha=scale, out=result)


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def _differentiable_gradients(
    std: float, inputs: tuple[Tensor | None, ...], grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the obvious route."""
    x, gain, bias, factor = inputs
    assert x is not None
    assert gain is not None
    assert factor is not None
    y = x @ (factor[0] * rms_scale(gain, [factor], [std]))
    y = y if bias is None else y + bias
    asked = [tensor for tensor, wants in zip(inputs, wanted, strict=True) if wants and tensor is not None]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
