"""The reference: the factors of a plan meet an activation in operations that torch itself differentiates.

Compilers, function transforms and higher derivatives use it; the executors compute the same faster.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.plans.plan import Axes, Groups, Plan, Step, product_of
from einsearch_cli.layers.torch_private import is_batch_of_gradients

_is_grad_enabled = torch.is_grad_enabled


def needs_reference_gradients(grad: Tensor) -> bool:
    """Whether a backward pass will be differentiated again, or runs for many output gradients at once.

    The first case is `create_graph=True`, the second `is_grads_batched=True`.
    """
    return _is_grad_enabled() or is_batch_of_gradients(grad)


def reference_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The wanted gradients of a function's `inputs` by torch's autograd, from the gradient of its result.

    The gradient may stand for a batch of gradients.
    """
    creates_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: an input may itself depend on a factor, as when a layer is applied twice. That path must not count
        # here.
        aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        asked = [tensor for tensor, wants in zip(aliases, wanted, strict=True) if wants and tensor is not None]
        found = iter(torch.autograd.grad(function(*aliases), asked, grad, create_graph=creates_graph))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]


def contract(plan: Plan, activation: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Let the factors meet an activation of shape (tokens, padded_in); returns (tokens, padded_out).

    `weights` are the factors in the order of `plan.steps`, each with the `weight_shape` of its step.
    """
    tokens, axes = activation.shape[0], plan.start
    for step, weight_BKN in zip(plan.steps, weights, strict=True):
        batch, rows, new = step.draft.batch, step.draft.rows, step.draft.new
        groups = (batch, rows, step.draft.contracted) if step.is_batched else (rows, step.draft.contracted)
        operand = arranged(activation, axes, groups, step.sizes(tokens))
        activation = torch.matmul(operand, repeated(weight_BKN, step, tokens))
        axes = (*batch, *rows, *new)
    return arranged(activation, axes, (plan.end[:1], plan.end[1:]), plan.steps[-1].sizes(tokens))


def arranged(tensor: Tensor, axes: Axes, groups: Groups, sizes: Mapping[str, int]) -> Tensor:
    """The tensor rearranged so that its memory has these axes, with a group of them along each dimension."""
    order = tuple(axis for group in groups for axis in group)
    if order != axes:
        tensor = tensor.reshape([sizes[axis] for axis in axes]).permute([axes.index(axis) for axis in order])
    return tensor.reshape([product_of(group, sizes) for group in groups])


def repeated(weight_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """The factor repeated along the activation's own axes that are read as batch; a matrix without batch."""
    if not step.is_batched:
        return weight_BKN[0]
    if not (step.is_repeated or step.is_along_tokens):
        return weight_BKN
    matrix, sizes = weight_BKN.shape[1:], step.sizes(tokens)
    own = step.weight_axes[0]
    axes = weight_BKN.reshape(*(sizes[axis] if axis in own else 1 for axis in step.batch), *matrix)
    axes = axes.expand(*(sizes[axis] for axis in step.batch), *matrix)
    return axes if len(step.batch) == 1 else axes.reshape(-1, *matrix)


def sum_repeats(grad_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """The gradient of a factor from that of its repetition, along `tokens` tokens if it is repeated along these."""
    matrix, sizes = grad_BKN.shape[1:], step.sizes(tokens)
    full = grad_BKN.reshape(*(sizes[axis] for axis in step.batch), *matrix)
    summed = [place for place, axis in enumerate(step.batch) if axis not in step.weight_axes[0]]
    return full.sum(summed, keepdim=True).reshape(-1, *matrix)
