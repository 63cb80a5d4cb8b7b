"""The reference: the factors of a plan meet an activation in operations that torch differentiates by itself.

Compilers, function transforms and derivatives of derivatives get it; the executors compute the same faster.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.execution.scaling import reference_scaled_last
from einsearch_cli.layers.plans.plan import Plan, Reading, Step


def reference_layer(plan: Plan, stds: Sequence[float]) -> Callable[..., Tensor]:
    """(x, gain, bias, *factors) to the layer's output; without a gain nothing is scaled.

    x is (..., padded_in), the output (..., padded_out).
    """

    def apply(x: Tensor, gain: Tensor | None, bias: Tensor | None, *factors: Tensor) -> Tensor:
        if gain is not None:
            factors = (*factors[:-1], reference_scaled_last(gain, factors, stds))
        y = contract(plan, x.reshape(-1, x.shape[-1]), factors)
        return (y if bias is None else y + bias).reshape(*x.shape[:-1], y.shape[1])

    return apply


def contract(plan: Plan, activation: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Let the factors meet an activation of shape (tokens, padded_in); gives (tokens, padded_out).

    `weights` are the factors in the order of `plan.steps`, each of its `weight_shape`.
    """
    tokens = activation.shape[0]
    for step, weight_BKN in zip(plan.steps, weights, strict=True):
        rows_BRK = read(activation, step.rows, tokens)
        activation = torch.matmul(rows_BRK, repeated(weight_BKN, step, tokens))
        if step.is_feature_major:
            activation = activation.transpose(-2, -1)
    if plan.write is not None:
        activation = permuted(activation, plan.write, tokens)
    return activation.reshape(tokens, plan.padded_out)


def permuted(memory: Tensor, reading: Reading, tokens: int) -> Tensor:
    """The axes of a reading in their order, as a view where the memory is contiguous."""
    axes = memory.reshape(reading.shape.at(tokens))
    return axes if reading.order is None else axes.permute(reading.order)


def read(memory: Tensor, reading: Reading, tokens: int) -> Tensor:
    """Three blocks, or two where there is no batch, as a view where one serves a matrix product."""
    blocks = permuted(memory, reading, tokens)
    if reading.blocks is not None:
        blocks = blocks.reshape(reading.blocks.at(tokens))
    if reading.is_copy:
        blocks = blocks.contiguous()
    return blocks.transpose(-2, -1) if reading.is_swapped else blocks


def repeated(weight_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """The factor repeated along the activation's own axes that are read as batch; a matrix if there is no batch."""
    if not step.is_batched:
        return weight_BKN[0]
    if step.repeat_from is None:
        return weight_BKN
    matrix = weight_BKN.shape[1:]
    axes = weight_BKN.reshape(*step.repeat_from.sizes, *matrix)
    batch = step.repeat_to.at(tokens)
    axes = axes.expand(*batch, *matrix)
    return axes if len(batch) == 1 else axes.reshape(-1, *matrix)


def sum_repeats(grad_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """The gradient of a factor from that of its repetition (along `tokens` tokens, if along any)."""
    if not step.is_batched:
        return grad_BKN[None]
    if step.repeat_from is None:
        return grad_BKN
    matrix = grad_BKN.shape[1:]
    full = grad_BKN.reshape(*step.repeat_to.at(tokens), *matrix)
    own = step.repeat_from.sizes
    summed = [axis for axis, size in enumerate(step.repeat_to.at(tokens)) if size != own[axis]]
    return full.sum(summed, keepdim=True).reshape(-1, *matrix) if summed else full.reshape(-1, *matrix)
