"""Sorting tokens by expert, and back.

Every token has K slots, one for each of its experts. Sorted by expert, the slots become rows: those of expert 0 first,
then those of expert 1, and so on. No slot is dropped, whatever the load.

Axes: T tokens, K slots of a token, R = T·K rows, F features, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.execution.reference import needs_reference_gradients, reference_gradients


@dataclass(frozen=True, slots=True)
class Groups:
    """The mapping between slots and rows."""

    token_of_row: Tensor
    slot_of_row: Tensor
    """The slot of each row; slots are numbered token by token."""
    row_of_slot_TK: Tensor
    ends_E: Tensor
    """The end of each expert's rows: one past the last."""

    def sizes(self) -> list[int]:
        """Number of rows of each expert; on the meta device, which has no values, all belong to the first."""
        if self.ends_E.is_meta:
            return [len(self.slot_of_row), *[0] * (len(self.ends_E) - 1)]
        ends = self.ends_E.tolist()
        return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def group(experts_TK: Tensor, experts: int) -> Groups:
    """Sort slots by expert; the tokens of an expert keep their order.

    >>> groups = group(torch.tensor([[2, 0], [0, 1], [2, 1]]), experts=4)
    >>> groups.token_of_row.tolist(), groups.sizes()
    ([0, 1, 1, 2, 0, 2], [2, 2, 2, 0])
    """
    tokens, top = experts_TK.shape
    expert_of_row, slot_of_row = experts_TK.reshape(-1).sort(stable=True)
    row_of_slot = torch.empty_like(slot_of_row)
    row_of_slot[slot_of_row] = torch.arange(tokens * top, device=experts_TK.device)
    # Not a cumulative sum of counts, which is not deterministic on a GPU.
    ends_E = torch.searchsorted(expert_of_row, torch.arange(experts, device=experts_TK.device), right=True)
    return Groups(slot_of_row // top, slot_of_row, row_of_slot.view(tokens, top), ends_E)


def dispatch(x_TF: Tensor, gates_TK: Tensor, groups: Groups) -> Tensor:
    """The rows (R, F): the token of each slot times its gate.

    As experts are linear, a gate may multiply the input instead of the output.
    """
    rows: Tensor = _Dispatch.apply(x_TF, gates_TK, groups)  # type: ignore[no-untyped-call]
    return rows


def combine(rows_RF: Tensor, groups: Groups) -> Tensor:
    """The tokens (T, F): the sum of each token's rows."""
    tokens: Tensor = _Combine.apply(rows_RF, groups)  # type: ignore[no-untyped-call]
    return tokens


def plain_dispatch(x_TF: Tensor, gates_TK: Tensor, groups: Groups) -> Tensor:
    """The function `dispatch` in operations that torch itself can differentiate any number of times."""
    return x_TF[groups.token_of_row] * gates_TK.reshape(-1)[groups.slot_of_row, None]


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TF: Tensor, gates_TK: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(x_TF, gates_TK)
        gates_R = gates_TK.reshape(-1).index_select(0, groups.slot_of_row)
        return x_TF.index_select(0, groups.token_of_row).mul_(gates_R[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TF, gates_TK = ctx.saved_tensors
        (grad_RF,), groups = grads, ctx.groups
        wants_x, wants_gates, _ = ctx.needs_input_grad
        if needs_reference_gradients(grad_RF):
            wanted = wants_x, wants_gates
            return *reference_gradients(
                lambda x_TF, gates_TK: plain_dispatch(x_TF, gates_TK, groups), (x_TF, gates_TK), grad_RF, wanted
            ), None
        row_of_slot_TK = groups.row_of_slot_TK
        x_grad = _weighted_sum(grad_RF, row_of_slot_TK, gates_TK) if wants_x else None
        gates_grad = _slot_products(grad_RF, row_of_slot_TK, x_TF).to(gates_TK.dtype) if wants_gates else None
        return x_grad, gates_grad, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RF: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return _weighted_sum(rows_RF, groups.row_of_slot_TK, None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # The result can be differentiated again.
        return grads[0].index_select(0, ctx.groups.token_of_row), None


def _weighted_sum(rows_RF: Tensor, row_of_slot_TK: Tensor, gates_TK: Tensor | None) -> Tensor:
    """Sum of each token's rows, times its gates if given: one pass over the rows."""
    return functional.embedding_bag(row_of_slot_TK, rows_RF.contiguous(), mode="sum", per_sample_weights=gates_TK)


def _slot_products(grad_RF: Tensor, row_of_slot_TK: Tensor, x_TF: Tensor) -> Tensor:
    """The product of each token's features with the gradient of each of its rows, summed over features."""
    products = [
        (grad_RF.index_select(0, rows_T) * x_TF).sum(dim=1, dtype=torch.promote_types(x_TF.dtype, torch.float32))
        for rows_T in row_of_slot_TK.unbind(dim=1)
    ]
    return torch.stack(products, dim=1)
