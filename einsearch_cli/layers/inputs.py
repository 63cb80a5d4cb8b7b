"""Errors for inputs and dtypes that a layer cannot take, and inputs that are not dense tensors.

Inputs that are not dense are nested tensors and the proxies of `torch.fx.symbolic_trace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.autocast import autocast_dtype, cast_dtype
from einsearch_cli.layers.torch_private import jagged_axis, parameters_of


def check_dtype(dtype: torch.dtype) -> None:
    """Raise LayerError if parameters of this dtype cannot be trained."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise LayerError(
            f"dtype {dtype}: parameters are trained by gradients and must be of a floating dtype with products of its own",
            remedy="use torch.float32, torch.bfloat16, torch.float16 or torch.float64",
        )


def checked_device(device: torch.device | str) -> torch.device:
    """The device; LayerError if torch does not know it."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise LayerError(f"device {device!r}: torch has no such device", remedy="cpu, cuda or mps") from error


def check_width(x: Tensor, in_features: int) -> None:
    """Raise LayerError if the last dimension is not `in_features`."""
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise LayerError(
            f"input of shape {tuple(x.shape)}: the last dimension must be in_features = {in_features}",
            remedy="bring the features to the last dimension, or build the layer with that width",
        )


def check_input(x: Tensor, in_features: int, dtype: torch.dtype) -> None:
    """Raise LayerError if the last dimension is not `in_features`, or the input is sparse or not floating-point."""
    check_width(x, in_features)
    if x.layout is not torch.strided:
        raise LayerError(
            f"input of layout {x.layout}: the layer takes dense tensors", remedy="convert it with .to_dense()"
        )
    if not x.is_floating_point():
        raise LayerError(
            f"input of dtype {x.dtype}: the layer takes floating tensors", remedy=f"convert it with .to({dtype})"
        )


def check_parameters(x: Tensor, layer: nn.Module) -> None:
    """Raise LayerError if input and parameters are on several devices, or are multiplied in several dtypes."""
    autocast = autocast_dtype(x)
    for name, parameter in _named_parameters(layer):
        if parameter.device != x.device:
            raise LayerError(
                f"input on {x.device}, parameter {name} on {parameter.device}: a product needs both on one device",
                remedy="move the whole layer and its input with .to(device)",
            )
        # Whole numbers are an 8-bit factor, which is read in the dtype of its scales.
        if parameter.is_floating_point() and cast_dtype(parameter, autocast) != cast_dtype(x, autocast):
            raise LayerError(
                f"input of dtype {x.dtype}, parameter {name} of {parameter.dtype}: a product needs one dtype",
                remedy=f"convert the input with .to({parameter.dtype})"
                + (", or use torch.autocast" if autocast is None else ""),
            )


def _named_parameters(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters by name, also of a replica by `nn.DataParallel`, which has plain tensors instead."""
    for prefix, module in layer.named_modules():
        # Hooks of a part may load its parameters when it is called.
        if module is not layer and (module._forward_pre_hooks or "forward" in vars(module)):
            continue
        for name, tensor in parameters_of(module).items():
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def output_for(layer: nn.Module, x: Tensor | fx.Proxy, in_features: int) -> Tensor | None:
    """The output of a layer on the last axis for an input that is not a dense tensor; None for a dense one.

    Raises:
        LayerError: if x is not a tensor, the traced layer is not part of a model, or the features are jagged.
    """
    if not isinstance(x, Tensor | fx.Proxy):
        raise LayerError(
            f"input of type {type(x).__name__}: the layer takes tensors (…, {in_features})",
            remedy="make a tensor of it: torch.as_tensor(x)",
        )
    if not isinstance(x, fx.Proxy):
        return _nested(layer, x, in_features) if x.is_nested else None
    name = x.tracer.path_of_module(layer)  # type: ignore[attr-defined]
    if not name:
        raise LayerError(
            f"symbolic_trace of a single {type(layer).__name__}: it is one call in the trace of a model",
            remedy="trace a model that has it, such as nn.Sequential(layer)",
        )
    return x.tracer.create_proxy("call_module", name, (x,), {})  # type: ignore[return-value]


def _nested(layer: nn.Module, x: Any, in_features: int) -> Tensor:
    """The layer's output for every part of a nested tensor, in its layout."""
    forward = type(layer).forward  # not `layer(…)`, which would call its hooks again
    if x.layout is not torch.jagged:
        return torch.nested.as_nested_tensor([forward(layer, part) for part in x.unbind()])
    axis = jagged_axis(x)
    if axis == x.ndim - 1:
        raise LayerError(
            "nested input whose last dimension is jagged: every token needs the same features",
            remedy="make the dimension of the tokens the jagged one",
        )
    check_width(x, in_features)
    values = forward(layer, x.values())
    return torch.nested.nested_tensor_from_jagged(values, x.offsets(), x.lengths(), jagged_dim=axis)
