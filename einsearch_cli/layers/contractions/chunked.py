"""The same contraction in chunks of tokens, with a backward pass written by hand.

What makes it fast (figures in `docs/log.md`): intermediates of a chunk stay in
the second-level cache and never reach main memory; every batched product writes a
contiguous result, which keeps MKL's batched path; the scale is folded into a
product; the bias is added by the pass that writes the output. Intermediates are
kept for the backward pass only where the layer still needs no more memory than the
dense one it stands for, and are computed anew otherwise.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.double_backward import (
    differentiable_gradients,
    needs_obvious_gradients,
    obvious_layer,
)
from einsearch_cli.layers.contractions.passes import Passes, kept_buffers, may_keep, memory_for_x_grad
from einsearch_cli.layers.contractions.rms_scale import caps, norms_at_cap, scale_value


class ChunkedSettings(NamedTuple):
    """What `apply_chunked` needs beside its tensors."""

    passes: Passes
    stds: tuple[float, ...]
    """Empty where factors are scaled already."""


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        settings: ChunkedSettings,
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.settings = passes, stds = settings
        ctx.save_for_backward(x, gain, bias, *weights)
        if gain is None:
            ctx.caps, ctx.norms, ctx.scale = 1.0, (), 1.0
        else:
            ctx.caps, ctx.norms = caps(weights, norms_at_cap(weights, stds))
            ctx.scale = gain.item() * ctx.caps
        rows, kept = as_rows(x), passes.unkept
        keeps = True in ctx.needs_input_grad and may_keep()
        if keeps and not passes.is_whole:
            kept = kept_buffers(passes.plan, rows)
        # The result is not a view, of which torch would keep account.
        y = x.new_empty(*x.shape[:-1], passes.plan.padded_out)
        y_rows = y if y.ndim == 2 else y.view(passes.tokens, passes.plan.padded_out)
        results = passes.forward(rows, y_rows, ctx.scale, bias, weights, kept)
        ctx.kept = results if keeps else kept
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, *weights = ctx.saved_tensors
        passes, stds = ctx.settings
        wanted = ctx.needs_input_grad[1:]
        if needs_obvious_gradients(grads[0]):
            inputs = (x, gain, bias, *weights)
            return None, *differentiable_gradients(obvious_layer(passes.plan, stds), inputs, grads[0], wanted)
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, passes.unkept
        wants_x, wants_gain, *others = wanted
        is_capped = any(ctx.norms)
        rows = as_rows(x)
        x_grad = memory_for_x_grad(rows, kept) if wants_x else None
        scale_grad, bias_grad, weight_grads = passes.backward(
            as_rows(grads[0]),
            rows,
            x_grad,
            ctx.scale,
            weights,
            kept,
            (wants_gain or is_capped, *others),  # caps pass the scale's gradient on to factors
        )
        gain_grad = None
        if scale_grad is not None:
            if is_capped:
                add_cap_gradients(weight_grads, weights, ctx.norms, scale_grad * -ctx.scale)
            gain_grad = torch.full_like(gain, scale_grad * ctx.caps) if wants_gain else None
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return None, x_grad, gain_grad, bias_grad, *weight_grads


def multiply_chunked(
    settings: ChunkedSettings, x: Tensor, gain: Tensor | None, bias: Tensor | None, *weights: Tensor
) -> Tensor:
    """The forward pass alone, for calls without gradients: an autograd function takes 3 µs around it."""
    passes, stds = settings
    scale = 1.0 if gain is None else scale_value(gain, weights, stds)
    y = x.new_empty(*x.shape[:-1], passes.plan.padded_out)
    y_rows = y if y.ndim == 2 else y.view(passes.tokens, passes.plan.padded_out)
    passes.forward(as_rows(x), y_rows, scale, bias, weights, passes.unkept)
    return y


apply_chunked: Any = super(torch.autograd.Function, _Contraction).apply
"""`_Contraction.apply` without its look at every argument for function transforms, under which layers do not come here."""


def as_rows(tensor: Tensor) -> Tensor:
    """(tokens, features), contiguous."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
    return rows if rows.is_contiguous() else rows.contiguous()


def add_cap_gradients(
    grads: Sequence[Tensor | None], weights: Sequence[Tensor], norms: Sequence[float], per_square: float
) -> None:
    """Through the norms of the factors above their cap."""
    for grad, weight, norm in zip(grads, weights, norms, strict=True):
        if norm and grad is not None:
            grad.add_(weight, alpha=per_square / norm**2)
