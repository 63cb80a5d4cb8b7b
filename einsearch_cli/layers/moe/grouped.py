"""Rows that are sorted by expert meet the factors of their experts: three routes to one result.

`contract_each` is the plain one. `contract_each_in_chunks` is the fast one on a CPU: one
chunked contraction per expert on its slice of the rows, forward and backward, into
shared memory. `contract_in_groups` makes one grouped matrix product of every step, for
a GPU.

Axes: R rows (slots), E experts; B batch, K contracted, N new of a factor, see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.contractions.contraction import contract
from einsearch_cli.layers.contractions.double_backward import differentiable_gradients, needs_obvious_gradients
from einsearch_cli.layers.contractions.passes import Kept, kept_buffers, memory_for_x_grad, passes_for
from einsearch_cli.layers.plans.plan import TOKENS, Plan
from einsearch_cli.sizing import SizedStructure


def contract_each(
    plan: Plan, rows: Tensor, sizes: Sequence[int], scales_E: Tensor, weights: Sequence[Tensor]
) -> Tensor:
    """The rows (R, padded_in), `sizes` of them for each expert, to (R, padded_out).

    In operations that torch differentiates by itself, as often as asked. Rows are sorted by expert, the plan is that
    of one expert, and weights are factors (E, B, K, N) in the order of its steps.
    """
    parts = rows.split(list(sizes))
    # Without any rows the first expert's product of nothing keeps the graph together.
    busy = [expert for expert, size in enumerate(sizes) if size] or [0]
    return torch.cat(contract_experts(plan, [parts[expert] for expert in busy], busy, scales_E, weights))


def contract_experts(
    plan: Plan, parts: Sequence[Tensor], experts: Iterable[int], scales_E: Tensor, weights: Sequence[Tensor]
) -> list[Tensor]:
    """Rows (R, padded_in) for each of these experts, to (R, padded_out); like `contract_each` otherwise."""
    found = []
    for part, expert in zip(parts, experts, strict=True):
        *first, last = (weight[expert] for weight in weights)
        scaled = (last * scales_E[expert]).to(last.dtype)
        found.append(contract(plan, part, [*first, scaled]))
    return found


def contract_each_in_chunks(
    plan: Plan, rows: Tensor, sizes: Sequence[int], scales_E: Tensor, weights: Sequence[Tensor]
) -> Tensor:
    """The same by a contraction in cache-sized chunks of rows."""
    result: Tensor = _EachInChunks.apply(plan, tuple(sizes), rows, scales_E, *weights)  # type: ignore[no-untyped-call]
    return result


class _EachInChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, sizes: tuple[int, ...], rows: Tensor, scales_E: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.plan, ctx.sizes, ctx.scales = plan, sizes, scales_E.tolist()
        ctx.save_for_backward(rows, scales_E, *weights)
        rows = rows.contiguous()
        ctx.kept = kept_buffers(plan, rows) if any(ctx.needs_input_grad) else [None] * (len(weights) - 1)
        y = rows.new_empty(rows.shape[0], plan.padded_out)
        for expert, begin, end in _busy(sizes):
            of_expert = [weight[expert] for weight in weights]
            kept = _kept(ctx.kept, begin, end)
            passes = passes_for(plan, end - begin, rows.is_cpu, weights[0].itemsize)
            passes.forward(rows[begin:end], y[begin:end], ctx.scales[expert], None, of_expert, kept)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, scales_E, *weights = ctx.saved_tensors
        (grad,), plan, sizes = grads, ctx.plan, ctx.sizes
        if needs_obvious_gradients(grad):
            return (
                None,
                None,
                *differentiable_gradients(
                    lambda rows, scales_E, *weights: contract_each(plan, rows, sizes, scales_E, weights),
                    (rows, scales_E, *weights),
                    grad,
                    ctx.needs_input_grad[2:],
                ),
            )
        _, _, wants_rows, wants_scales, *wants_weights = ctx.needs_input_grad
        wanted = [wants_scales, False, *wants_weights]
        rows, grad = rows.contiguous(), grad.contiguous()
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, [None] * (len(weights) - 1)
        rows_grad = memory_for_x_grad(rows, kept) if wants_rows else None
        scales_grad = torch.zeros(len(sizes), dtype=torch.float64) if wants_scales else None
        weights_grad = [torch.zeros_like(w) if wants else None for w, wants in zip(weights, wants_weights, strict=True)]
        for expert, begin, end in _busy(sizes):
            of_expert = [weight[expert] for weight in weights]
            part = _kept(kept, begin, end)
            into = None if rows_grad is None else rows_grad[begin:end]
            scale_grad, _, found = passes_for(plan, end - begin, rows.is_cpu, weights[0].itemsize).backward(
                grad[begin:end], rows[begin:end], into, ctx.scales[expert], of_expert, part, wanted
            )
            if scales_grad is not None and scale_grad is not None:
                scales_grad[expert] = scale_grad
            for target, source in zip(weights_grad, found, strict=True):
                if target is not None and source is not None:
                    target[expert] = source
        return None, None, rows_grad, scales_grad, *weights_grad


def _busy(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Number, first row and end of every expert that has rows."""
    begin = 0
    for expert, size in enumerate(sizes):
        if size:
            yield expert, begin, begin + size
        begin += size


def _kept(kept: Kept, begin: int, end: int) -> Kept:
    """The parts of kept results that belong to some of the rows."""
    return [memory if memory is None else memory[begin:end] for memory in kept]


def contract_in_groups(
    plan: Plan, sized: SizedStructure, rows: Tensor, ends_E: Tensor, scales_E: Tensor, weights: Sequence[Tensor]
) -> Tensor:
    """The same with one `grouped_mm` for every step; nothing is read back from the device.

    A step whose factor has batch indices is a product of B·E groups. Arguments are those of `contract_each`, with the
    sizes of one expert's indices, and one past the last row of every expert (`ends_E`) in place of numbers of rows.
    """
    count = rows.shape[0]
    sizes = {**dict(sized.sizes), TOKENS: count}
    axes = [TOKENS, *plan.input_order]
    activation = rows.reshape([sizes[axis] for axis in axes])
    *first, last = weights
    scaled = (last * scales_E[:, None, None, None]).to(last.dtype)
    for step, weight_EBKN in zip(plan.steps, [*first, scaled], strict=True):
        batch, contracted, new = step.weight_axes
        kept = [axis for axis in axes if axis not in (TOKENS, *batch, *contracted)]
        order = [*batch, TOKENS, *kept, *contracted]
        experts, b, k, n = weight_EBKN.shape
        operand = activation.permute([axes.index(axis) for axis in order]).reshape(-1, k)
        per_row = math.prod(sizes[axis] for axis in kept)
        begins_B = torch.arange(b, device=rows.device) * (count * per_row)
        ends_BE = (begins_B[:, None] + ends_E * per_row).to(torch.int32).reshape(-1)
        groups = weight_EBKN.transpose(0, 1).reshape(b * experts, k, n)
        product = functional.grouped_mm(operand, groups, offs=ends_BE)
        axes = [*batch, TOKENS, *kept, *new]
        activation = product.reshape([sizes[axis] for axis in axes])
    target = [TOKENS, *plan.output_order]
    return activation.permute([axes.index(axis) for axis in target]).reshape(count, plan.padded_out)


def can_be_grouped(plan: Plan, rows: Tensor) -> bool:
    """Whether `grouped_mm` takes the steps of this plan: rows of every operand begin at multiples of 16 bytes."""
    if not hasattr(functional, "grouped_mm") or rows.shape[0] == 0:
        return False
    return all(size * rows.itemsize % 16 == 0 for step in plan.steps for size in step.weight_shape[1:])
