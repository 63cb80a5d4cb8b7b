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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

from einsearch_cli.layers.chunking import chunks, kept_buffers, may_keep
from einsearch_cli.layers.contraction import contract
from einsearch_cli.layers.passes import Backward, run_forward
from einsearch_cli.layers.plan import Plan
from einsearch_cli.layers.rms_scale import caps, rms_scale


def contract_in_chunks(
    plan: Plan,
    x: Tensor,
    bias: Tensor | None,
    weights: Sequence[Tensor],
    gain: Tensor | None = None,
    stds: Sequence[float] = (),
) -> Tensor:
    """The contraction of `x` (..., padded_in) with the factors, plus `bias` (padded_out).

    With a gain the product is scaled as by `rms_scale(gain, weights, stds)`. That reads
    numbers, for which a GPU would have to wait: there the scale is better multiplied to
    a factor before.
    """
    result: Tensor = _apply(plan, stds, unwrap_if_dead(x), gain, bias, *weights)
    return result


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        stds: Sequence[float],
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.stds = plan, stds
        ctx.save_for_backward(x, gain, bias, *weights)
        ctx.caps, ctx.norms = (1.0, []) if gain is None else caps(weights, stds)
        ctx.scale = ctx.caps if gain is None else float(gain) * ctx.caps
        rows = _as_rows(x)
        keeps = True in ctx.needs_input_grad and may_keep()
        is_whole = keeps and len(chunks(plan, rows.shape[0])) == 1
        ctx.kept = kept_buffers(plan, rows) if keeps and not is_whole else []
        kept, results = ([], ctx.kept) if is_whole else (ctx.kept, None)
        if rows is x:
            return run_forward(plan, x, ctx.scale, bias, weights, kept, None, results)
        # Not a view of rows, of which torch would keep account.
        y = x.new_empty(*x.shape[:-1], plan.padded_out)
        run_forward(plan, rows, ctx.scale, bias, weights, kept, y.view(-1, plan.padded_out), results)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            inputs = (x, gain, bias, *weights)
            return None, None, *_differentiable_gradients(ctx.plan, ctx.stds, inputs, grads[0], wanted)
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, []
        wants_x, wants_gain, *others = wanted
        needs = (wants_x, wants_gain or any(ctx.norms), *others)  # caps pass the scale's gradient on to factors
        run = Backward(ctx.plan, _as_rows(x), ctx.scale, weights, needs, kept)
        x_grad, scale_grad, bias_grad, *weight_grads = run.gradients(_as_rows(grads[0]))
        gain_grad = None
        if scale_grad is not None:
            gain_grad = (scale_grad * ctx.caps).view(1)
            if any(ctx.norms):
                _add_cap_gradients(weight_grads, weights, ctx.norms, float(scale_grad) * -ctx.scale)
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return None, None, x_grad, gain_grad, bias_grad, *weight_grads


_apply: Any = super(torch.autograd.Function, _Contraction).apply
"""`_Contraction.apply` without its look at every argument for function transforms, under which layers do not come here."""


def _as_rows(tensor: Tensor) -> Tensor:
    """(tokens, features)"""
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def _add_cap_gradients(
    grads: list[Tensor | None], weights: Sequence[Tensor], norms: Sequence[float], per_square: float
) -> None:
    """Through the norms of the factors above their cap."""
    for grad, weight, norm in zip(grads, weights, norms, strict=True):
        if norm and grad is not None:
            grad.add_(weight, alpha=per_square / norm**2)


def _differentiable_gradients(
    plan: Plan, stds: Sequence[float], inputs: tuple[Tensor | None, ...], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the obvious route."""
    x, gain, bias, *weights = inputs
    assert x is not None
    factors = [weight for weight in weights if weight is not None]
    scaled = factors if gain is None else [*factors[:-1], factors[-1] * rms_scale(gain, factors, stds)]
    y = contract(plan, _as_rows(x), scaled)
    y = (y if bias is None else y + bias).reshape(grad.shape)
    asked = [tensor for tensor, wants in zip(inputs, wanted, strict=True) if wants and tensor is not None]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
