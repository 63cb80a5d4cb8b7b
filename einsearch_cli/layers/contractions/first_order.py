"""The scale of a layer for training programs: few operations, and gradients of first order alone.

A program of a training step that is written down once and run thousands of times (`training.proxy.program`) pays for every
operation on single elements, 2 to 3 µs each. Torch's own gradient of the scale of two factors takes 40 of them, this one 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_MATRICES = (-3, -2, -1)
"""Axes of a stored factor; runs may come before."""

_is_first_order: ContextVar[bool] = ContextVar("is_first_order", default=False)


@contextmanager
def first_order_gradients() -> Iterator[None]:
    """Inside, function transforms get gradients that cannot be differentiated again, by fewer operations."""
    token = _is_first_order.set(True)
    try:
        yield
    finally:
        _is_first_order.reset(token)


def is_first_order() -> bool:
    """Whether gradients of first order are enough; never in compiled code, which cannot ask."""
    return not torch.compiler.is_compiling() and _is_first_order.get()


def scaled_last_once(gain: Tensor, factors: Sequence[Tensor], stds: Sequence[float]) -> Tensor:
    """As `obviously_scaled_last`, without derivatives of derivatives."""
    at_cap = tuple(std * math.sqrt(factor.numel()) for factor, std in zip(factors, stds, strict=True))
    scaled: Tensor = _ScaledLast.apply(at_cap, gain, *factors)[0]  # type: ignore[no-untyped-call]
    return scaled


class _ScaledLast(torch.autograd.Function):
    """Any axes may come before those of the factors and of the gain, as long as all have them."""

    @staticmethod
    def forward(at_cap: tuple[float, ...], gain: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        norms = torch.stack([torch.linalg.vector_norm(factor, dim=_MATRICES) for factor in factors], dim=-1)
        limits = norms.new_tensor(at_cap)
        capped = torch.maximum(norms, limits)
        caps = torch.prod(limits / capped, dim=-1, keepdim=True)
        return factors[-1] * (gain * caps)[..., None, None], norms, capped, caps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        at_cap, gain, *factors = inputs
        ctx.at_cap = at_cap
        ctx.save_for_backward(gain, *factors, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gain, *factors, norms, capped, caps = ctx.saved_tensors
        last = factors[-1]
        gain_grad = (grad * last).sum(_MATRICES)[..., None] * caps
        # Of max(norm, limit) only a norm above the limit has a gradient: the factor over its norm.
        above = norms > norms.new_tensor(ctx.at_cap)
        pull = torch.where(above, gain_grad * gain, 0.0) / capped.square()
        pulls = [part[..., None, None, None] for part in pull.unbind(-1)]
        found = [-pulled * factor for pulled, factor in zip(pulls[:-1], factors[:-1], strict=True)]
        return None, gain_grad, *found, grad * (gain * caps)[..., None, None] - pulls[-1] * last

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], at_cap: tuple[float, ...], *tensors: Tensor) -> Any:
        moved = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return _ScaledLast.apply(at_cap, *moved), (0, 0, 0, 0)  # type: ignore[no-untyped-call]
