"""The base class of all networks that are trained, with analytic FLOPs and learning-rate multipliers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import nn

from einsearch_cli.layers import EinsumLinear, learning_rate_multipliers
from einsearch_cli.layers.learning_rates import StructuredLayer
from einsearch_cli.models.counts import FlopCount, NetworkCount
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, expert_of

LinearRule = Callable[[int, int, bool], nn.Module]
"""A function that makes one linear layer from (in_features, out_features, bias)."""


class StructuredNetwork(nn.Module, ABC):
    """A network whose linear layers may carry a structure: what tasks and full runs train.

    Contract:
        - `head` is the output layer: dense, zero at the start, never structured; None if the embedding is the head.
        - `flops_per_token()` counts as `FlopCount` says.
        - `fan_in_scales(name)` says whether the fan-in of the linear layer `name` grows with `width`.
        - Nothing is stored on parameters: rules refer to them by name.
    """

    width: int
    head: nn.Linear | None

    @abstractmethod
    def flops_per_token(self) -> FlopCount:
        """Forward FLOPs per token (for regression: per sample)."""

    def training_flops_per_token(self) -> FlopCount:
        """FLOPs per token of a forward and a backward pass, with input gradients for every linear layer."""
        return self.flops_per_token().of_training()

    @abstractmethod
    def fan_in_scales(self, layer: str) -> bool:
        """True when the fan-in of the linear layer with this module name grows with `width`."""

    def learning_rate_multipliers(self, base_width: int) -> dict[str, float]:
        """Factor on the base learning rate for every parameter, by name (spectral muP with Adam).

        A matrix whose fan-in grows with the width has the dense multiplier `base_width / width`. A matrix with a fixed
        fan-in (embedding, input layer) has 1, as have biases, gains and norms. The factors of a structured layer
        multiply this by what `layers.learning_rate_multipliers` returns. Source: Qiu et al. 2024; Potapczynski et al.
        2024.
        """

        def dense(layer: str) -> float:
            return base_width / self.width if self.fan_in_scales(layer) else 1.0

        matrices = {
            f"{name}.weight": dense(name) for name, module in self.named_modules() if isinstance(module, nn.Linear)
        }
        others = {name: 1.0 for name, _ in self.named_parameters()}
        return {**others, **matrices, **learning_rate_multipliers(self, dense)}

    def structured_layers(self) -> dict[str, nn.Module]:
        """Layers that carry a structure, or experts of one, by module name.

        >>> from einsearch_cli.models import MLP
        >>> from einsearch_cli.structures import parse_layer
        >>> list(MLP(8, 16, 1, depth=3, make_linear=structured_linear(parse_layer("monarch"))).structured_layers())
        ['layers.0', 'layers.1']
        """
        return {name: module for name, module in self.named_modules() if isinstance(module, StructuredLayer)}

    def parameter_count(self) -> int:
        """Trainable numbers in the whole network: embeddings, head, biases and gains included."""
        return sum(value.numel() for value in self.parameters())

    def count(self) -> NetworkCount:
        """Parameters and FLOPs together, counted on the layers."""
        return NetworkCount(self.parameter_count(), self.flops_per_token(), self.training_flops_per_token())


def structured_linear(layer: LayerSpec) -> LinearRule:
    """A rule that makes every linear layer carry a structure, or experts of it; dense goes through the same class.

    If the experts are whole feed-forward networks, this rule makes all other linear layers.

    >>> from einsearch_cli.structures import parse_structure
    >>> structured_linear(parse_structure("dense"))(8, 16, True).in_features
    8
    """

    def make(in_features: int, out_features: int, bias: bool) -> nn.Module:
        if isinstance(layer, MixtureOfExperts) and not layer.feed_forward:
            return StructuredMoE(in_features, out_features, layer, bias=bias)
        return EinsumLinear(in_features, out_features, expert_of(layer), bias=bias)

    return make


def dense_linear(in_features: int, out_features: int, bias: bool) -> nn.Linear:
    """An `nn.Linear` with the start of a dense structure: spectral muP, bias zero."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.normal_(layer.weight, std=min(in_features, out_features) ** 0.5 / in_features)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zero_head(in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    """The dense output layer, zero at the start."""
    head = nn.Linear(in_features, out_features, bias=bias)
    zero_output_(head)
    return head


def zero_output_(layer: nn.Module) -> None:
    """Make the last linear layer of a residual block give zero at the start."""
    if isinstance(layer, StructuredLayer):
        layer.zero_last_factor_()
        return
    for value in layer.parameters(recurse=False):
        nn.init.zeros_(value)


def linear_flops(layer: nn.Module) -> int:
    """Forward FLOPs per token of one linear layer, or of one network of experts; bias not counted."""
    if isinstance(layer, StructuredLayer):
        return layer.flops_per_token
    if isinstance(layer, nn.Linear):
        return 2 * layer.in_features * layer.out_features
    raise TypeError(f"no FLOP rule for {type(layer).__name__}; a LinearRule makes EinsumLinear or nn.Linear")


def input_gradient_flops(layer: nn.Module) -> int:
    """FLOPs per token of the gradient of a layer's input, which the first layer of a network does not need.

    The gates of experts multiply their input, so the gradients of the gates need that of the input. Only the router's
    product is saved there.
    """
    if isinstance(layer, StructuredMoE):
        return layer.router.flops_per_token
    if isinstance(layer, EinsumLinear):
        return 2 * layer.plan.steps[0].macs_per_token
    return linear_flops(layer)
