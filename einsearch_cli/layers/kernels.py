"""The one product that layers are made of, and its use along a plan.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.plan import Plan, Rearrangement, Step

MemoryOrder = tuple[int, int, int]
"""The axes of a three-dimensional tensor, slowest in memory first."""


class _MatmulInto(torch.autograd.Function):
    """`torch.bmm` that writes its result, and its gradients, in a given memory order.

    The gradients take the memory order of the operands, which spares the
    transposing copies that autograd's own batched product needs.
    """

    @staticmethod
    def forward(a_BRK: Tensor, b_BKN: Tensor, order: MemoryOrder) -> Tensor:
        shape = (a_BRK.shape[0], a_BRK.shape[1], b_BKN.shape[2])
        out = a_BRK.new_empty([shape[axis] for axis in order]).permute(_inverse(order))
        return torch.bmm(a_BRK, b_BKN, out=out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, MemoryOrder], _output: Tensor) -> None:
        a_BRK, b_BKN, _ = inputs
        ctx.save_for_backward(a_BRK, b_BKN)
        ctx.save_for_forward(a_BRK, b_BKN)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a_BRK, b_BKN = ctx.saved_tensors
        (grad_BRN,) = grads
        a_grad = b_grad = None
        if ctx.needs_input_grad[0]:
            a_grad = matmul_into(grad_BRN, b_BKN.transpose(1, 2), memory_order(a_BRK))
        if ctx.needs_input_grad[1]:
            b_grad = matmul_into(a_BRK.transpose(1, 2), grad_BRN, memory_order(b_BKN))
        return a_grad, b_grad, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        a_BRK, b_BKN = ctx.saved_tensors
        a_tangent, b_tangent, _ = tangents
        terms = []
        if a_tangent is not None:
            terms.append(torch.bmm(a_tangent, b_BKN))
        if b_tangent is not None:
            terms.append(torch.bmm(a_BRK, b_tangent))
        return sum(terms[1:], start=terms[0])

    @staticmethod
    def vmap(
        _info: Any, in_dims: Sequence[int | None], a: Tensor, b: Tensor, _order: MemoryOrder
    ) -> tuple[Tensor, int]:
        a = a if in_dims[0] is None else a.movedim(in_dims[0], 0)
        b = b if in_dims[1] is None else b.movedim(in_dims[1], 0)
        return torch.matmul(a, b), 0


def matmul_into(a_BRK: Tensor, b_BKN: Tensor, order: MemoryOrder) -> Tensor:
    """The batched product of shape (B, R, N), laid out in memory as `order` of its axes.

    The order is a wish that changes speed, never values: where a compiler
    chooses layouts itself it is left to it.

    >>> a, b = torch.ones(4, 3, 2), torch.ones(4, 2, 5)
    >>> matmul_into(a, b, (1, 0, 2)).stride()
    (5, 20, 1)
    """
    if _layout_is_free() and _is_plain(a_BRK) and _is_plain(b_BKN):
        result: Tensor = _MatmulInto.apply(a_BRK, b_BKN, order)  # type: ignore[no-untyped-call]
        return result
    return torch.bmm(a_BRK, b_BKN)


def memory_order(tensor: Tensor) -> MemoryOrder:
    """The axes of a three-dimensional tensor by falling stride, with a matrix axis innermost.

    >>> memory_order(torch.empty(2, 3, 4).permute(1, 2, 0))
    (2, 0, 1)
    """
    strides = tensor.stride()
    first, second, third = sorted(range(3), key=lambda axis: -strides[axis])
    if third == 0:
        return (0, 1, 2)
    return (first, second, third)


def contract(plan: Plan, activation: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Let the factors meet an activation of shape (tokens, padded_in); gives (tokens, padded_out).

    `weights` are the factors in the order of `plan.steps`, each of its `weight_shape`.
    """
    tokens = activation.shape[0]
    for step, weight in zip(plan.steps, weights, strict=True):
        if step.gather is not None:
            activation = _rearranged(activation, step.gather, tokens)
        rows_BRK = activation.reshape(step.blocks.at(tokens)).permute(step.to_rows)
        weight_BKN = _repeated(weight, step).transpose(1, 2)
        result_BRN = matmul_into(rows_BRK, weight_BKN, step.result_order)
        activation = result_BRN.permute(step.result_order)
    if plan.scatter is not None:
        activation = _rearranged(activation, plan.scatter, tokens)
    return activation.reshape(tokens, plan.padded_out)


def _rearranged(activation: Tensor, how: Rearrangement, tokens: int) -> Tensor:
    return activation.reshape(how.shape.at(tokens)).permute(how.order)


def _repeated(weight_BNK: Tensor, step: Step) -> Tensor:
    """The factor repeated along the activation's own indices that are read as batch."""
    if not step.repeat_to:
        return weight_BNK
    matrix = weight_BNK.shape[1:]
    return weight_BNK.reshape(*step.repeat_from, *matrix).expand(*step.repeat_to, *matrix).reshape(-1, *matrix)


def _inverse(order: MemoryOrder) -> MemoryOrder:
    return order.index(0), order.index(1), order.index(2)


def _layout_is_free() -> bool:
    """Whether operations run as they are called, rather than being recorded by a compiler."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def _is_plain(tensor: Tensor) -> bool:
    """False for tensor subclasses (fake, distributed, quantised), which may not take `out=`."""
    return type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
