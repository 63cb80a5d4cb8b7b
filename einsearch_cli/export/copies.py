"""Copies of a model with other linear layers instead of the structured ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.export.swap_notes import forget_swaps
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.executor import reference_layer
from einsearch_cli.layers.execution.scaling import reference_scaled
from einsearch_cli.layers.inputs import check_input
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.layers.torch_private import is_any_autocast
from einsearch_cli.layers.tracing import is_plain
from einsearch_cli.models.transformer import Transformer
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.swap.fused_experts import FusedExperts
from einsearch_cli.swap.pointwise import PointwiseConv

_Model = TypeVar("_Model", bound=nn.Module)


class ServingLinear(nn.Module):
    """A linear layer y = W x + b from a structure's factors, for inference only.

    The gain and the rms caps of the original layer are multiplied into a factor once. Traced code of `EinsumLinear`
    would compute them from all factors at every call. The factors meet the activation in the order that suits many
    tokens.

    Args:
        layer: the trained layer; its values are copied.

    >>> layer = EinsumLinear(16, 16, "btt:r=2")
    >>> x = torch.randn(3, 16)
    >>> torch.allclose(ServingLinear(layer)(x), layer(x), atol=1e-5)
    True
    """

    bias: Tensor | None
    plan: Plan

    @torch.no_grad()
    def __init__(self, layer: EinsumLinear) -> None:
        super().__init__()
        self.plan, self.in_features, self.out_features = layer.plan, layer.in_features, layer.out_features
        factors = [layer.factors[step.factor].detach().clone() for step in layer.plan.steps]
        factors = reference_scaled(layer.gain, factors, layer.plan.limits)
        self.factors = nn.ParameterList(nn.Parameter(factor, requires_grad=False) for factor in factors)
        bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features).

        Raises:
            LayerError: for another input width, or an input that is sparse or not floating-point.
        """
        check_input(x, self.in_features, self.factors[0].dtype)
        rows = x.reshape(-1, self.in_features)
        if self.plan.padded_in > self.in_features:
            rows = nn.functional.pad(rows, (0, self.plan.padded_in - self.in_features))
        if is_plain(x) and not is_any_autocast():
            call = Call(x.device.type, x.dtype, rows.shape[0])
            y: Tensor = execute(executor_for(self.plan, call), rows, None, None, *self.factors)
        else:
            y = reference_layer(self.plan, rows, None, None, *self.factors)
        y = y[:, : self.out_features]
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles; the plan follows from the sized structure."""
        return {**self.__dict__, "plan": self.plan.sized}

    def __setstate__(self, state: dict[str, Any]) -> None:
        plan = state["plan"]  # pickles of earlier versions have a whole plan
        super().__setstate__({**state, "plan": stored_plan(getattr(plan, "sized", plan))})  # type: ignore[no-untyped-call]


def serving_copy(model: _Model) -> _Model:
    """A copy whose structured layers are `ServingLinear`; layers of experts and the model itself stay unchanged.

    Raises:
        LayerError: if the model has guided layers.
    """
    refuse_guided(model)
    return _copied(model, ServingLinear)


def refuse_guided(model: nn.Module) -> None:
    """Raise LayerError for a model in the middle of self-guided training."""
    for name, module in model.named_modules():
        if isinstance(module, SelfGuidedLinear):
            raise LayerError(
                f"{name or 'the model'} has a guide: its output is still partly that of a dense matrix",
                remedy="train to the end of the guided part, or export the model as dense",
            )


def dense_copy(model: _Model) -> _Model:
    """A copy whose structured layers are plain `nn.Linear` with the merged matrices; the model itself stays unchanged.

    Layers with tied factors become layers with a tied weight. Guided layers become the matrix that they multiply by.
    Swapped convolutions and fused experts become the original modules, under their original names.

    Raises:
        LayerError: if the model has layers of experts.

    >>> model = nn.Sequential(EinsumLinear(16, 16, "btt:r=2"), nn.ReLU())
    >>> dense_copy(model)
    Sequential(
      (0): Linear(in_features=16, out_features=16, bias=True)
      (1): ReLU()
    )
    """
    for name, module in model.named_modules():
        if isinstance(module, StructuredMoE | FeedForwardMoE):
            raise LayerError(
                f"{name or 'the model'} is a {type(module).__name__}: which experts run depends on the token, so it is "
                "not one matrix",
                remedy="export it as safetensors, as a program, or as a folder of transformers with structured layers",
            )
    weights: dict[Tensor, nn.Parameter] = {}

    @torch.no_grad()
    def make(layer: EinsumLinear) -> nn.Module:
        device, dtype = layer.gain.device, layer.gain.dtype
        dense = nn.Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta", dtype=dtype
        )
        if layer.gain not in weights:
            weights[layer.gain] = nn.Parameter(layer.to_dense().contiguous())
        dense.weight = weights[layer.gain]
        if layer.bias is not None:
            dense.bias = nn.Parameter(layer.bias.detach().clone().to(device))
        return dense.train(layer.training)

    @torch.no_grad()
    def make_convolution(layer: PointwiseConv) -> nn.Module:
        linear = layer.linear
        dense = make(linear) if isinstance(linear, EinsumLinear) else copy.deepcopy(linear)
        return layer.convolution(dense.weight, dense.bias)  # type: ignore[arg-type]

    copied = _copied(model, make, make_convolution, FusedExperts.dense)
    forget_swaps(copied)
    if isinstance(copied, Transformer):
        copied.config = copied.config.model_copy(update={"structure": "dense"})
    return copied


def _copied(
    model: _Model,
    make: Callable[[EinsumLinear], nn.Module],
    make_convolution: Callable[[PointwiseConv], nn.Module] | None = None,
    make_experts: Callable[[FusedExperts], nn.Module] | None = None,
) -> _Model:
    """A deep copy in which `make` replaces every structured layer; their factors are not copied."""
    instead: dict[int, object] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, PointwiseConv) and make_convolution is not None:
            instead[id(module)] = make_convolution(module)
            inside.update(module.modules())
            continue
        if isinstance(module, FusedExperts) and make_experts is not None:
            instead[id(module)] = make_experts(module)
            continue
        if isinstance(module, EinsumLinear):
            instead[id(module)] = make(module)
    return copy.deepcopy(model, instead)
