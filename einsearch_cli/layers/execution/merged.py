"""Products of factors, and the matrices that a layer merged for inference keeps between calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.autocast import cast_dtype
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.executor import Executor
from einsearch_cli.layers.execution.scaling import reference_scaled
from einsearch_cli.layers.plans.merge_steps import joint_axes, merging_pairs, without
from einsearch_cli.layers.plans.plan import Axes, Call, Plan, Step
from einsearch_cli.layers.plans.planner import Route, RouteTable
from einsearch_cli.layers.torch_private import constant_when_compiled, storage_of
from einsearch_cli.sizing import SizedStructure

Labelled = tuple[Axes, Tensor]
"""A tensor with the carrier sets of its axes."""


def merged_weights(stored: Plan, wanted: Plan, factors: Sequence[Tensor]) -> list[Tensor]:
    """The weights of a plan of groups from the factors of the layer's own plan; differentiable.

    Each weight has the `weight_shape` of its step in `wanted.steps`.
    """
    sized = stored.sized
    labelled = {
        step.factor: (step.axes, factor.reshape([sized.size(axis) for axis in step.axes]))
        for step, factor in zip(stored.steps, factors, strict=True)
    }
    return [_merged_step(sized, step, [labelled[factor] for factor in step.factor]) for step in wanted.steps]


def _merged_step(sized: SizedStructure, step: Step, tensors: list[Labelled]) -> Tensor:
    target = step.axes
    for first, second, axes in _pairs(sized, tuple(axes for axes, _ in tensors), target):
        product = _pair_product(sized, tensors[first], tensors[second], axes)
        tensors = [*without(tensors, first, second), (axes, product)]
    return _aligned(sized, tensors[0], target).reshape(step.weight_shape)


@constant_when_compiled
def _pairs(sized: SizedStructure, tensors: tuple[Axes, ...], target: Axes) -> tuple[tuple[int, int, Axes], ...]:
    """The pairs to multiply; a constant for compilers, which cannot follow the search."""
    return tuple(merging_pairs(sized, tensors, target))


def _pair_product(sized: SizedStructure, first: Labelled, second: Labelled, target: Axes) -> Tensor:
    """The product of two tensors with the axes `target`, contiguous; other axes are summed over."""
    if set(joint_axes(first[0], second[0])) <= set(target):
        # Bringing small operands into the order of the large result first is 3 to 9 times faster than einsum.
        return _aligned(sized, first, target) * _aligned(sized, second, target)
    letter = {axis: chr(ord("a") + number) for number, axis in enumerate(joint_axes(first[0], second[0]))}
    left, right, result = ("".join(letter[axis] for axis in axes) for axes in (first[0], second[0], target))
    return torch.einsum(f"{left},{right}->{result}", first[1], second[1]).contiguous()


def _aligned(sized: SizedStructure, tensor: Labelled, target: Axes) -> Tensor:
    """The tensor with its axes in the order of `target`, and axes of length 1 where it has none."""
    axes, values = tensor
    order = [axes.index(axis) for axis in target if axis in axes]
    shape = [sized.size(axis) if axis in axes else 1 for axis in target]
    return values.permute(order).contiguous().reshape(shape)


class Merging:
    """The period from `merge` to `unmerge`, in which a layer may keep what it makes of its parameters.

    It records identity, memory and version of every parameter; all in-place operations of torch and `load_state_dict`
    change one of these. Fused optimizers do not raise versions; `layers.merging` watches their steps.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._noted = [(name, tensor, tensor._version, tensor.data_ptr()) for name, tensor in parameters.items()]
        self.is_asked = False
        """Whether it outlives all contexts."""
        self.contexts = 0
        """Number of open contexts."""
        self.weights: KeptWeights | None = None
        """The kept matrices; None until a call needs them."""

    def is_current(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the parameters are still those that were merged, without a change that torch can see."""
        for name, tensor, version, address in self._noted:
            if parameters.get(name) is not tensor or tensor._version != version or tensor.data_ptr() != address:
                return False
        return True

    def touches(self, storages: set[int]) -> bool:
        """Whether a parameter lies in one of these storages, as `storage_of` names them."""
        return any(storage_of(tensor) in storages for _, tensor, *_ in self._noted)


class _Chosen(NamedTuple):
    """How the last call was computed, for the next calls of as many tokens."""

    tokens: int
    executor: Executor | None
    """None for the product with the dense matrix."""
    weights: Sequence[Tensor]


class KeptWeights:
    """Scaled and merged factors of one layer in the dtype of autocast, each made when a route first needs it."""

    weight: Tensor
    """The scaled W of shape (padded_out, padded_in), in the layer's orders of features; None until it is needed.

    If the layer widens, W is stored transposed: products of 1 to 16 tokens then take 0.59 to 1.04 of the time with the
    layout of `nn.Linear`. If it narrows, they would take 0.98 to 1.28 of it.
    """
    transposed: Tensor
    """`weight` as (padded_in, padded_out), a view; making it takes 0.7 of the 10 µs of a product of width 256."""

    def __init__(
        self, plan: Plan, factors: Sequence[Tensor], gain: Tensor, autocast: torch.dtype | None, routes: RouteTable
    ) -> None:
        """`factors` are those of the layer's own plan."""
        self._plan, self.autocast, self._route_table = plan, autocast, routes
        self._factors = reference_scaled(gain.detach(), [factor.detach() for factor in factors], plan.limits)
        self._products: dict[str, list[Tensor]] = {}
        self.prepared: dict[Plan, Sequence[Tensor]] = {}
        """The form of the weights that executors read, by the plan for some number of tokens."""
        sized = plan.sized
        self.is_plain = autocast is None and (sized.padded_in, sized.padded_out) == (sized.d_in, sized.d_out)
        """Whether inputs of two axes are multiplied directly, without padding or casts."""
        self.dense_limit: float = -1
        """The most elements of an input without padding for which `weight` alone gives the output; 0 until it exists.
        """
        self._chosen: _Chosen | None = None

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Map (tokens, padded_in) to (tokens, padded_out) by the fastest route."""
        chosen = self._chosen  # read once, as other threads may replace it
        if chosen is None or chosen.tokens != x.shape[0]:  # choosing takes 3 of the 20 µs of a small call
            chosen = self._chosen = self._choose(x)
        if chosen.executor is None:
            return functional.linear(x, self.weight, bias)
        return chosen.executor.forward(x, None, bias, chosen.weights)[0]

    def _choose(self, x: Tensor) -> _Chosen:
        route, tokens = self._route_table.at(x.shape[0]), x.shape[0]
        if route.is_dense:
            self._make_dense(route)
            return _Chosen(tokens, None, ())
        executor = executor_for(route.plan, Call(x.device.type, x.dtype, tokens))
        weights = self.prepared.get(executor.plan)
        if weights is None:
            # Kept too: repeating took a third of a one-token call through the generic structure of width 4096.
            weights = self.prepared[executor.plan] = executor.prepared(self._merged(route))
        return _Chosen(tokens, executor, weights)

    def _make_dense(self, route: Route) -> None:
        if not hasattr(self, "weight"):
            transposed = self._merged(route)[0][0].T
            widens = self._plan.sized.d_out > self._plan.sized.d_in
            weight = transposed if widens else transposed.contiguous()
            self.transposed = weight.T
            self.weight = weight
            if self.is_plain:
                self.dense_limit = self._route_table.dense_limit * self._plan.sized.d_in

    def _merged(self, route: Route) -> list[Tensor]:
        """The merged weights of a route, made once for all its plans."""
        if route.text not in self._products:
            merged = merged_weights(self._plan, route.plan, self._factors)
            self._products[route.text] = [weight.to(cast_dtype(weight, self.autocast)) for weight in merged]
        return self._products[route.text]
