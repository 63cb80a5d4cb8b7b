"""What a layer that was merged for inference keeps from call to call: its scale, and merged and repeated factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.autocast import cast_dtype
from einsearch_cli.layers.contractions.merged_weights import merged_weights
from einsearch_cli.layers.contractions.passes import passes_for
from einsearch_cli.layers.contractions.rms_scale import scale_value
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import Route, RouteTable, stored_plan
from einsearch_cli.sizing import SizedStructure


class Merging:
    """The time during which one layer may keep what it makes of its parameters, from `merge` to `unmerge`.

    It notes identity, memory and version of every parameter, which all in-place operations of torch and
    `load_state_dict` change. Fused optimizers raise no versions; `layers.merging` watches for their steps.
    """

    __slots__ = ("_parameters", "contexts", "is_asked", "weights")

    def __init__(self, factors: Mapping[str, Tensor], gain: Tensor) -> None:
        named = (*factors.items(), ("", gain))
        self._parameters = [(name, tensor, tensor._version, tensor.data_ptr()) for name, tensor in named]
        self.is_asked = False
        """Whether it is to outlive all contexts."""
        self.contexts = 0
        """Those that are open."""
        self.weights: KeptWeights | None = None
        """There once a call needed it."""

    def is_current(self, factors: Mapping[str, Tensor | None], gain: Tensor | None) -> bool:
        """Whether the parameters are still those that were merged, without a change that torch can see."""
        for name, tensor, version, address in self._parameters:
            current = factors.get(name) if name else gain
            if current is not tensor or tensor._version != version or tensor.data_ptr() != address:
                return False
        return True

    def touches(self, storages: set[int]) -> bool:
        """Whether a parameter lies in one of these storages, given by their addresses."""
        return any(tensor.untyped_storage()._cdata in storages for _, tensor, *_ in self._parameters)


class KeptWeights:
    """Merged factors of one layer, in the dtype that autocast wants, each made when a route first needs it."""

    __slots__ = (
        "_factors",
        "_itemsize",
        "_merged",
        "_repeated",
        "_route_table",
        "_scale",
        "_sized",
        "autocast",
        "dense_limit",
        "is_plain",
        "transposed",
        "weight",
    )

    weight: Tensor
    """Scaled W of shape (padded_out, padded_in), in the layer's orders of features; there once it was needed.

    Where the layer widens, it lies in memory transposed: products of 1 to 16 tokens take 0.59 to 1.04 of the
    time of a matrix that lies as `nn.Linear`'s does. Where it narrows, they would take 0.98 to 1.28 of it.
    """
    transposed: Tensor
    """The same as (padded_in, padded_out), a view: making it takes 0.7 of the 10 µs of a product of width 256."""

    def __init__(
        self,
        sized: SizedStructure,
        factors: Mapping[str, Tensor],
        gain: Tensor,
        stds: Sequence[float],
        autocast: torch.dtype | None,
        route_table: RouteTable,
    ) -> None:
        self._sized, self.autocast, self._route_table = sized, autocast, route_table
        self._itemsize = cast_dtype(gain, autocast).itemsize
        self._factors = {name: factor.detach() for name, factor in factors.items()}
        self._scale = scale_value(gain.detach(), list(self._factors.values()), stds)
        self._merged: dict[str, list[Tensor]] = {}
        self._repeated: dict[Plan, list[Tensor]] = {}
        self.is_plain = autocast is None and (sized.padded_in, sized.padded_out) == (sized.d_in, sized.d_out)
        """Whether inputs of two axes are multiplied as they are, without padding or casts."""
        self.dense_limit: float = -1
        """Elements of an input without padding up to which `weight` alone gives the output; none before it is there."""

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(tokens, padded_in) to (tokens, padded_out) by the fastest route."""
        route = self._route_table.at(x.shape[0])
        if route.is_dense:
            return functional.linear(x, self._dense(route), bias)
        passes = passes_for(route.plan, x.shape[0], x.is_cpu, self._itemsize)
        weights = self._repeated.get(passes.plan)
        if weights is None:
            if route.text not in self._merged:
                self._merged[route.text] = self._merge(route)
            # Kept too: repeating took a third of a call of one token through the generic structure of width 4096.
            weights = self._repeated[passes.plan] = list(passes.repeated(self._merged[route.text]))
        y = x.new_empty(passes.tokens, route.plan.padded_out)
        passes.forward(x.contiguous(), y, self._scale, bias, weights, passes.unkept)
        return y

    def _dense(self, route: Route) -> Tensor:
        if not hasattr(self, "weight"):
            (merged,) = self._merge(route)
            transposed = (merged[0] * self._scale).T
            widens = self._sized.d_out > self._sized.d_in
            weight = transposed if widens else transposed.contiguous()
            self.transposed = weight.T
            self.weight = weight
            if self.is_plain:
                self.dense_limit = self._route_table.dense_limit * self._sized.d_in
        return self.weight

    def _merge(self, route: Route) -> list[Tensor]:
        merged = merged_weights(self._sized, stored_plan(self._sized), route.plan, self._factors)
        return [weight.to(cast_dtype(weight, self.autocast)) for weight in merged]
