"""Inputs that are no dense tensors: nested ones, and those of `torch.fx.symbolic_trace`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.input_checks import check_width


def output_for(layer: nn.Module, x: Tensor | fx.Proxy, in_features: int) -> Tensor | None:
    """What a layer gives for an input that is no dense tensor; None for a dense one.

    Args:
        layer: acts on the last axis alone.
        x: its input.
        in_features: width of the last axis.

    Raises:
        LayerError: if a layer is traced that is not part of a model, or the features are jagged.
    """
    if isinstance(x, fx.Proxy):
        return _as_leaf(layer, x)
    return _nested(layer, x, in_features) if x.is_nested else None


def _as_leaf(layer: nn.Module, x: fx.Proxy) -> Tensor:
    """One call of the layer, in which the tracer does not look."""
    name = x.tracer.path_of_module(layer)  # type: ignore[attr-defined]
    if not name:
        raise LayerError(
            f"symbolic_trace of a single {type(layer).__name__}: it is one call in the trace of a model",
            remedy="trace a model that has it, such as nn.Sequential(layer)",
        )
    return x.tracer.create_proxy("call_module", name, (x,), {})  # type: ignore[return-value]


def _nested(layer: nn.Module, x: Any, in_features: int) -> Tensor:
    """The layer's output for every part of a nested tensor, in its layout."""
    # Not `layer(…)`, which would call its hooks once more.
    forward = type(layer).forward
    if x.layout is not torch.jagged:
        return torch.nested.as_nested_tensor([forward(layer, part) for part in x.unbind()])
    axis = next(axis for axis, size in enumerate(x.shape) if not isinstance(size, int))
    if axis == x.ndim - 1:
        raise LayerError(
            "nested input whose last dimension is jagged: every token needs the same features",
            remedy="make the dimension of the tokens the jagged one",
        )
    check_width(x, in_features)
    values = forward(layer, x.values())
    return torch.nested.nested_tensor_from_jagged(values, x.offsets(), x.lengths(), jagged_dim=axis)
