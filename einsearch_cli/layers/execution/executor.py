"""What an executor is: one way to compute a layer, and its gradients, on one kind of device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.execution.reference import contract
from einsearch_cli.layers.execution.scaling import reference_scaled_last
from einsearch_cli.layers.plans.plan import Plan


class Call(NamedTuple):
    """What decides how a plan is executed, resolved once for inputs of one shape."""

    device: str
    """The type of the device; everything but a CPU is treated as a GPU, the meta device too."""
    dtype: torch.dtype
    """The dtype of the products, so that of autocast where it is on."""
    tokens: int
    trains: bool
    """Whether the call is differentiable."""

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


Inputs = Sequence[Any]
"""Tensors x, gain, bias and factors; gain and bias may be None."""


class Saved(NamedTuple):
    """What a forward pass leaves to the backward pass beside its inputs."""

    scale: Any
    """The scale as the executor has it; None if it is to be computed again."""
    results: Sequence[Any]
    """Tensors or None: the results of all steps but the last, None for those to be computed again."""
    may_overwrite: bool = True


class Executor:
    """y = scale · W x + bias for a fixed number of tokens, where the scale follows from gain and factors (`scaling`).

    To support another device, derive a class with `forward` and `backward`, and return it from `executor_for`. Its
    tests are those of `tests/layers/test_executors.py`, which run every executor against the reference.
    """

    plan: Plan
    keeps: Sequence[bool]
    """Which results of the steps a differentiable call saves by default."""

    def __init__(self, plan: Plan, stored: Plan | None = None) -> None:
        """`stored` has the factors that are given, if they are not those of the plan's own steps."""
        self.plan, self._stored = plan, stored or plan
        self.stds = tuple(role.init_std for role in self._stored.roles)
        shapes = (step.weight_shape for step in self._stored.steps)
        self.limits = tuple(std * math.sqrt(math.prod(shape)) for std, shape in zip(self.stds, shapes, strict=True))

    def forward(
        self,
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        factors: Sequence[Tensor],
        keeps: Sequence[bool] | None = None,
    ) -> tuple[Tensor, Saved | None]:
        """(..., padded_in) to (..., padded_out), and what `backward` may use of it; nothing is saved without `keeps`.

        Factors are those of the plan's steps in their order; without a gain they are scaled already.
        """
        raise NotImplementedError

    def backward(
        self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of the inputs (x, gain, bias, *factors) where wanted; what was not saved is computed again."""
        raise NotImplementedError

    def reference(self, x: Tensor, gain: Tensor | None, bias: Tensor | None, *factors: Tensor) -> Tensor:
        """The output in operations that torch differentiates by itself, as often as asked."""
        return reference_layer(self._stored, self.stds)(x, gain, bias, *factors)

    def prepared(self, factors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Factors in a form that `forward` takes too, for callers that pass the same ones many times."""
        return factors


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


def as_rows(tensor: Tensor) -> Tensor:
    """(tokens, features), contiguous."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
    return rows if rows.is_contiguous() else rows.contiguous()


def memory_for_x_grad(x: Tensor, saved: Saved) -> Tensor:
    """The memory of the first saved result where the sizes agree: each chunk of it is read before it is written."""
    first = saved.results[0] if saved.results and saved.may_overwrite else None
    if first is not None and first.numel() == x.numel():
        memory: Tensor = first.view(x.shape)
        return memory
    return torch.empty_like(x)
