"""Helpers for tests of the parts of a layer, from its public surface."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.autograd import register_plan
from einsearch_cli.layers.execution.executor import reference_layer
from einsearch_cli.layers.plans.planner import routes


def factors_of(layer: EinsumLinear) -> list[Tensor]:
    """The factors in the order in which they meet the activation."""
    return [layer.factors[step.factor] for step in layer.plan.steps]


def padded_bias_of(layer: EinsumLinear) -> Tensor | None:
    padding = layer.plan.padded_out - layer.out_features
    return functional.pad(layer.bias, (0, padding)) if padding and layer.bias is not None else layer.bias


def operator_name_of(layer: EinsumLinear) -> str:
    """The name by which the operators of compiled code identify the layer's plan."""
    return register_plan(layer.plan)


def reference_output(layer: EinsumLinear, x: Tensor) -> Tensor:
    """The output by operations that torch differentiates itself; inputs have two axes."""
    inputs = (layer.padded(x), layer.gain, padded_bias_of(layer), *factors_of(layer))
    return reference_layer(layer.plan, *inputs)[:, : layer.out_features]


def route_taken(layer: EinsumLinear, x: Tensor) -> str:
    """The route of a call, found by its FLOPs; the layer's routes must differ in these."""
    with FlopCounterMode(display=False) as counter:
        layer(x)
    tokens = x.numel() // layer.in_features
    by_flops = {tokens * route.flops_per_token + route.flops_per_merge: route.text for route in routes(layer.sized)}
    assert len(by_flops) == len(routes(layer.sized))
    return by_flops[counter.get_total_flops()]
