"""The contraction on a GPU, with a backward pass written by hand and a scale that never leaves the device.

All tokens are one chunk: there a call is dear, and all intermediates are kept. `chunked` is its
counterpart for the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.chunked import ChunkedSettings, as_rows
from einsearch_cli.layers.contractions.double_backward import (
    differentiable_gradients,
    needs_obvious_gradients,
    obvious_layer,
)
from einsearch_cli.layers.contractions.kernels import kernels_for
from einsearch_cli.layers.contractions.passes import may_keep, memory_for_x_grad
from einsearch_cli.layers.contractions.rms_scale import norms_at_cap


class _DeviceContraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: ChunkedSettings, x: Tensor, gain: Tensor, bias: Tensor | None, *factors: Tensor
    ) -> Tensor:
        ctx.settings = passes, stds = settings
        ctx.at_cap, ctx.kernels = norms_at_cap(factors, stds), kernels_for(gain, factors)
        scaled, scale_and_norms = ctx.kernels.scaled_last(gain, factors, ctx.at_cap)
        rows = as_rows(x)
        y = x.new_empty(passes.tokens, passes.plan.padded_out)
        kept = passes.forward(rows, y, 1.0, bias, (*factors[:-1], scaled), passes.unkept)
        ctx.kept = kept if True in ctx.needs_input_grad and may_keep() else passes.unkept
        ctx.save_for_backward(x, gain, bias, scale_and_norms, scaled, *factors)
        return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, scale_and_norms, scaled, *factors = ctx.saved_tensors
        passes, stds = ctx.settings
        wanted, (grad,) = ctx.needs_input_grad[1:], grads
        if needs_obvious_gradients(grad):
            inputs = (x, gain, bias, *factors)
            return None, *differentiable_gradients(obvious_layer(passes.plan, stds), inputs, grad, wanted)
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, passes.unkept
        wants_x, wants_gain, wants_bias, *wants_factors = wanted
        wants_scale = wants_gain or True in wants_factors
        rows, gain_grad = as_rows(x), None
        x_grad = memory_for_x_grad(rows, kept) if wants_x else None
        _, bias_grad, factor_grads = passes.backward(
            as_rows(grad),
            rows,
            x_grad,
            1.0,
            (*factors[:-1], scaled),
            kept,
            (False, wants_bias, *wants_factors[:-1], wants_scale),
        )
        if wants_scale:
            found = [torch.zeros_like(f) if g is None else g for f, g in zip(factors, factor_grads, strict=True)]
            gain_grad = ctx.kernels.add_scale_(tuple(found), gain, tuple(factors), ctx.at_cap, scale_and_norms)
            factor_grads = [g if wants else None for g, wants in zip(found, wants_factors, strict=True)]
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return None, x_grad, gain_grad if wants_gain else None, bias_grad, *factor_grads


apply_on_device: Any = super(torch.autograd.Function, _DeviceContraction).apply
"""`_DeviceContraction.apply` without its look at every argument for function transforms, as in `chunked`."""
