"""Attention of several runs as one larger batch, where torch's transform would handle one run after another."""

# Axes in this file: R runs, B batch, H heads, T positions, D head size.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FoldedAttention(TorchFunctionMode):
    """While active, `vmap` puts its axis into the batch of `scaled_dot_product_attention`.

    On a CPU, torch has no rule for this. It warns and calls attention once for every run, and in the backward pass each
    of these calls fills and adds tensors of all runs.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        is_plain = len(args) == 3 and options.get("attn_mask") is None and not options.get("dropout_p")
        if func is not F.scaled_dot_product_attention or not is_plain:
            return func(*args, **options)
        return _Folded.apply(*args, options)  # type: ignore[no-untyped-call]


class _Folded(torch.autograd.Function):
    """A function for `vmap` only: without `vmap` there is nothing to fold."""

    @staticmethod
    def forward(query_BHTD: Tensor, key_BHTD: Tensor, value_BHTD: Tensor, options: dict[str, Any]) -> Tensor:
        return F.scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("attention is folded under one vmap alone")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        *tensors, options = arguments
        folded = [
            (tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)).flatten(0, 1)
            for tensor, dim in zip(tensors, in_dims[:3], strict=True)
        ]
        mixed = F.scaled_dot_product_attention(*folded, **options)
        return mixed.unflatten(0, (info.batch_size, -1)), 0
