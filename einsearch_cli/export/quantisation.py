"""8-bit factors, also by `quantize_` of torchao."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.factored_module import FactoredModule

_LARGEST: Final = 127
_KNOWN: Final = "Int8WeightOnlyConfig"


class Int8Factor(nn.Module):
    """A factor (…, fan_in, fan_out) as 8-bit integers, with one scale per column of each of its matrices."""

    def forward(self, values: Tensor, scales: Tensor) -> Tensor:
        """The factor, in the dtype of the scales."""
        return values * scales

    def right_inverse(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest integers, and their scales."""
        scales = factor.abs().amax(dim=-2, keepdim=True).clamp(min=torch.finfo(factor.dtype).tiny) / _LARGEST
        return (factor / scales).round().to(torch.int8), scales


@torch.no_grad()
def quantise_factors_(layer: FactoredModule) -> None:
    """Store the factors of a layer in 8 bits, for inference; each call converts them back to the old dtype.

    The largest error of an entry is 1/254 of the largest entry in its column. Memory falls to about a quarter from
    float32, and to a half from 16 bits; time does not fall. The factors can no longer be trained.

    Args:
        layer: a structured layer, or the experts of one.

    >>> from einsearch_cli import EinsumLinear
    >>> layer, x = EinsumLinear(64, 64, "monarch"), torch.ones(64)
    >>> before = layer(x)
    >>> quantise_factors_(layer)
    >>> sorted({str(parameter.dtype) for name, parameter in layer.named_parameters() if "factors" in name})
    ['torch.float32', 'torch.int8']
    >>> bool((layer(x) - before).norm() < 0.02 * before.norm())
    True
    """
    factors = layer.factors
    for name in list(factors.keys()):
        if not parametrize.is_parametrized(factors, name):
            factors[name].requires_grad_(False)
            parametrize.register_parametrization(factors, name, Int8Factor())
    layer.requires_grad_(False)


def register_quantisation() -> None:
    """Let `quantize_` of torchao find structured layers; called when torchao is imported.

    By default, torchao quantises instances of `nn.Linear` only and silently leaves all other layers as they are.
    """
    api: Any = sys.modules["torchao.quantization.quant_api"]
    is_linear: Callable[..., bool] = api._is_linear

    def is_linear_or_structured(module: nn.Module, *names: Any) -> bool:
        return isinstance(module, FactoredModule) or is_linear(module, *names)

    api._is_linear = is_linear_or_structured
    api.quantize_.__defaults__ = tuple(
        is_linear_or_structured if value is is_linear else value for value in api.quantize_.__defaults__
    )
    handlers: dict[Any, Callable[..., nn.Module]] = api._QUANTIZE_CONFIG_HANDLER
    handlers.update({config: _handler(config.__name__, handler) for config, handler in handlers.items()})


def _handler(config: str, handler: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def handle(module: nn.Module, *words: Any, **named: Any) -> nn.Module:
        if not isinstance(module, FactoredModule):
            return handler(module, *words, **named)
        if config != _KNOWN:
            raise LayerError(
                f"torchao's {config} for {type(module).__name__}: factors are quantised by {_KNOWN} alone",
                remedy=f"use {_KNOWN}, leave structured layers by filter_fn, or make the model dense first: "
                "einsearch_cli.export.dense_copy(model)",
            )
        quantise_factors_(module)
        return module

    return handle
