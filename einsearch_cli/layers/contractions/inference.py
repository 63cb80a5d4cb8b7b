"""What a layer keeps between calls that need no gradients: its scale, and merged and repeated factors."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from einsearch_cli.layers.autocast import cast_dtype
from einsearch_cli.layers.contractions.merged_weights import merged_weights
from einsearch_cli.layers.contractions.passes import passes_for
from einsearch_cli.layers.contractions.rms_scale import scale_value
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import Route, Schedule, stored_plan
from einsearch_cli.structures import SizedStructure

_CELLS: dict[int, Any] = {1: ctypes.c_int8, 2: ctypes.c_int16, 4: ctypes.c_int32, 8: ctypes.c_int64}
_NO_CELL = ctypes.c_int8()
_steps = [0]
"""Steps of all optimizers so far: fused ones change parameters without raising their versions."""


def _count_step(*_: Any) -> None:
    _steps[0] += 1


register_optimizer_step_post_hook(_count_step)


class Prepared:
    """Merged factors of one layer, in the dtype that autocast wants, made when a route first needs them.

    They are right as long as `serves` says so: it compares the identity, the
    memory and the version of every parameter, which all in-place operations and
    `load_state_dict` raise, and counts the steps of optimizers. Edits past torch, of `.data` or of the
    same memory in NumPy, raise no version; on the CPU the largest element of every parameter
    is compared too, which all edits of a whole tensor change. Such edits of single
    elements, or on a GPU, go unseen; changing the layer's mode, device or dtype makes it forget everything.
    """

    __slots__ = (
        "_itemsize",
        "_merged",
        "_parameters",
        "_repeated",
        "_scale",
        "_schedule",
        "_sized",
        "_steps",
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
        factors: dict[str, Tensor],
        gain: Tensor,
        stds: Sequence[float],
        autocast: torch.dtype | None,
        schedule: Schedule,
    ) -> None:
        self._sized, self.autocast = sized, autocast
        self._itemsize = cast_dtype(gain, autocast).itemsize
        named = [*factors.items(), ("", gain)]
        self._parameters = [
            (name, tensor, tensor._version, tensor.data_ptr(), *_probe(tensor)) for name, tensor in named
        ]
        self._steps = _steps[0]
        self._scale = scale_value(gain.detach(), [f.detach() for f in factors.values()], stds)
        self._schedule = schedule
        self._merged: dict[str, list[Tensor]] = {}
        self._repeated: dict[Plan, list[Tensor]] = {}
        self.is_plain = autocast is None and (sized.padded_in, sized.padded_out) == (sized.d_in, sized.d_out)
        """Whether inputs of two axes are multiplied as they are, without padding or casts."""
        self.dense_limit: float = -1
        """Elements of an input without padding up to which `weight` alone gives the output; none before it is there."""

    def serves(self, factors: Mapping[str, Tensor | None], gain: Tensor | None) -> bool:
        """Whether the parameters are still those that this was made from."""
        for name, tensor, version, address, cell, bits in self._parameters:
            current = factors.get(name) if name else gain
            if (
                current is not tensor
                or tensor._version != version
                or tensor.data_ptr() != address
                or cell.value != bits
            ):
                return False
        return self._steps == _steps[0]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(tokens, padded_in) to (tokens, padded_out) by the fastest route."""
        route = self._schedule.at(x.shape[0])
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
            self.weight = transposed if widens else transposed.contiguous()
            self.transposed = self.weight.T
            if self.is_plain:
                self.dense_limit = self._schedule.dense_limit * self._sized.d_in
        return self.weight

    def _merge(self, route: Route) -> list[Tensor]:
        factors = {name: tensor.detach() for name, tensor, *_ in self._parameters if name}
        merged = merged_weights(self._sized, stored_plan(self._sized), route.plan, factors)
        return [weight.to(cast_dtype(weight, self.autocast)) for weight in merged]


def _probe(parameter: Tensor) -> tuple[Any, int]:
    """The memory of the largest element, and its bits now: 60 ns to compare.

    Not a view by NumPy, which would forbid the storage to be resized. The address is read only where `data_ptr` is unchanged.
    """
    is_plain = type(parameter) in (Tensor, nn.Parameter) and parameter.is_cpu
    if not is_plain or not parameter.is_contiguous() or not parameter.numel():
        return _NO_CELL, 0
    itemsize = parameter.dtype.itemsize
    number = int(parameter.detach().abs().argmax())
    cell = _CELLS[itemsize].from_address(parameter.data_ptr() + itemsize * number)
    return cell, cell.value
