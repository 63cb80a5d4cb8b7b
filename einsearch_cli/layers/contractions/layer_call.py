"""What a layer finds out at a call, for the next inputs of the same shape: decisions, nothing made from values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.chunked import ChunkedSettings, apply_chunked, multiply_chunked
from einsearch_cli.layers.contractions.on_device import apply_on_device
from einsearch_cli.layers.contractions.passes import passes_for
from einsearch_cli.layers.contractions.scaled_matrix import (
    ScaledMatrixSettings,
    apply_scaled_matrix,
    multiply_scaled_matrix,
)
from einsearch_cli.layers.plans.planner import Route

_num_threads = torch.get_num_threads


class LayerCall(NamedTuple):
    """One route, and the function that takes it."""

    shape: torch.Size
    """Of the input, before padding."""
    is_cpu: bool
    threads: int
    autocast: torch.dtype | None
    route: Route
    is_own: bool
    """Whether the function takes the layer's own factors, and scales them itself."""
    apply: Callable[..., Tensor]
    """(settings, x, gain, bias, *factors); without a gain nothing is scaled."""
    settings: Any

    def serves(self, x: Tensor, autocast: torch.dtype | None) -> bool:
        """Whether nothing that matters has changed."""
        return (
            x.shape == self.shape
            and x.is_cpu is self.is_cpu
            and self.threads == _num_threads()
            and self.autocast is autocast
        )


def layer_call(
    x: Tensor, route: Route, stds: tuple[float, ...], autocast: torch.dtype | None, dtype: torch.dtype, has_grad: bool
) -> LayerCall:
    """For inputs like `x` (..., in_features); `dtype` is that of the products; `has_grad` makes it differentiable."""
    machine = x.is_cpu, _num_threads(), autocast
    if route.is_own and route.is_dense and x.is_cpu:
        multiply = apply_scaled_matrix if has_grad else multiply_scaled_matrix
        return LayerCall(x.shape, *machine, route, True, multiply, ScaledMatrixSettings(route.plan, stds))
    # The one matrix of a GPU is scaled before: `nn.Linear`'s own product adds the bias on the way.
    is_own = route.is_own and (x.is_cpu or not route.is_dense)
    on_cpu = apply_chunked if has_grad else multiply_chunked
    apply = on_cpu if x.is_cpu or not is_own else apply_on_device
    passes = passes_for(route.plan, math.prod(x.shape[:-1]), x.is_cpu, dtype.itemsize)
    return LayerCall(x.shape, *machine, route, is_own, apply, ChunkedSettings(passes, stds if is_own else ()))
