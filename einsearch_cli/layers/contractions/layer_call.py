"""What a layer finds out at a call, for the next inputs of the same shape: decisions, nothing made from values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.chunked import ChunkedSettings, apply_chunked, multiply_chunked
from einsearch_cli.layers.contractions.formed_matrix import FormedSettings, apply_formed_matrix, multiply_formed_matrix
from einsearch_cli.layers.contractions.forming import forming
from einsearch_cli.layers.contractions.on_device import apply_on_device
from einsearch_cli.layers.contractions.passes import passes_for
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import Route
from einsearch_cli.sizing import SizedStructure

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
    sized: SizedStructure,
    own: Plan,
    x: Tensor,
    route: Route,
    autocast: torch.dtype | None,
    dtype: torch.dtype,
    has_grad: bool,
) -> LayerCall:
    """For inputs like `x` (..., in_features); `own` is the layer's plan, `dtype` that of the products.

    `has_grad` makes the call differentiable.
    """
    machine, stds = (x.is_cpu, _num_threads(), autocast), tuple(role.init_std for role in own.roles)
    if route.is_dense and x.is_cpu and (route.is_own or autocast is None):
        at_cap = tuple(std * math.sqrt(math.prod(step.weight_shape)) for std, step in zip(stds, own.steps, strict=True))
        apply = apply_formed_matrix if has_grad else multiply_formed_matrix
        settings = FormedSettings(own, stds, at_cap, forming(sized, own, route.plan))
        return LayerCall(x.shape, *machine, route, True, apply, settings)
    # The one matrix of a GPU is scaled before: `nn.Linear`'s own product adds the bias on the way.
    is_own = route.is_own and (x.is_cpu or not route.is_dense)
    on_cpu = apply_chunked if has_grad else multiply_chunked
    apply = on_cpu if x.is_cpu or not is_own else apply_on_device
    passes = passes_for(route.plan, math.prod(x.shape[:-1]), x.is_cpu, dtype.itemsize)
    return LayerCall(x.shape, *machine, route, is_own, apply, ChunkedSettings(passes, stds if is_own else ()))
