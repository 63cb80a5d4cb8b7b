"""Parameters and FLOPs of networks by arithmetic on their sizes: nothing is built, and torch is not needed.

The networks themselves count too, layer by layer (`StructuredNetwork.parameter_count`, `flops_per_token`); the tests
compare both counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from einsearch_cli.structures import LayerSpec, MixtureOfExperts, expert_of
from einsearch_cli.taxonomy import first_step_flops, layer_costs

TRAINING_TO_FORWARD: Final = 3
"""The ratio of training to a forward pass: the forward pass, the gradients of the weights and those of the inputs."""


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Forward FLOPs per token, 2 x multiply-adds, split by their purpose.

    Only matrix products are counted. Biases, activation functions, norms, rotations, the softmax and the
    loss are left out; looking up an embedding is not a product and costs 0.

    >>> count = FlopCount(linears=200, attention=50, head=10)
    >>> count.body, count.total
    (250, 260)
    """

    linears: int
    """Every linear layer except the head; in layers of experts, the router and the experts that a token uses."""
    attention: int
    """Query-key scores and the weighted sum of values, over the full window (causality saves nothing)."""
    head: int
    """The output layer."""

    @property
    def body(self) -> int:
        """FLOPs without embeddings and head: the budget of a study, equal for all candidates."""
        return self.linears + self.attention

    @property
    def total(self) -> int:
        """FLOPs with embeddings and head."""
        return self.body + self.head

    def of_training(self, spared_linears: int = 0) -> FlopCount:
        """FLOPs of a forward and a backward pass together.

        Args:
            spared_linears: FLOPs per token that the backward pass does not spend on linear layers.

        >>> FlopCount(linears=200, attention=50, head=10).of_training(spared_linears=20)
        FlopCount(linears=580, attention=150, head=30)
        """
        linears, attention, head = (TRAINING_TO_FORWARD * flops for flops in (self.linears, self.attention, self.head))
        return FlopCount(linears=linears - spared_linears, attention=attention, head=head)


@dataclass(frozen=True, slots=True)
class NetworkCount:
    """Parameters and FLOPs of a network."""

    params: int
    """All trainable numbers, including embeddings, head, biases and gains."""
    flops: FlopCount
    """FLOPs of a forward pass per token (for regression: per sample)."""
    training: FlopCount
    """FLOPs of a forward and a backward pass per token."""


@dataclass(frozen=True, slots=True)
class LinearCount:
    """Parameters and FLOPs of one linear layer."""

    params: int
    flops: int
    """FLOPs of a forward pass per token."""
    input_gradient: int
    """FLOPs per token of the gradient of its input, which the first layer of a network does not need."""


def dense_count(d_in: int, d_out: int, *, bias: bool) -> LinearCount:
    """Parameters and FLOPs of an `nn.Linear`.

    >>> dense_count(4, 3, bias=True)
    LinearCount(params=15, flops=24, input_gradient=24)
    """
    flops = 2 * d_in * d_out
    return LinearCount(d_in * d_out + bias * d_out, flops, flops)


def structured_count(layer: LayerSpec, d_in: int, d_out: int, *, bias: bool) -> LinearCount:
    """Parameters and FLOPs of an `EinsumLinear`, or of a `StructuredMoE` for experts; gains are counted.

    >>> from einsearch_cli.structures import parse_layer
    >>> structured_count(parse_layer("monarch"), 64, 64, bias=True)  # 2 × 8³ factors, a gain, 64 biases
    LinearCount(params=1089, flops=2048, input_gradient=1024)
    """
    costs = layer_costs(layer, d_in, d_out)
    if isinstance(layer, MixtureOfExperts):  # The gates multiply the experts' input, so they need its gradient.
        gains, input_gradient = layer.experts, 2 * d_in * layer.experts
    else:
        gains, input_gradient = 1, first_step_flops(layer.at(d_in, d_out))
    return LinearCount(costs.params + gains + bias * d_out, costs.flops_per_token, input_gradient)


def expert_network_count(mixture: MixtureOfExperts, width: int, hidden: int) -> LinearCount:
    """Parameters and FLOPs of a `FeedForwardMoE`: one router, and two matrices with their gains in every expert.

    >>> from einsearch_cli.structures import parse_layer
    >>> mixture = parse_layer("ffn-moe:experts=8,top=2")
    >>> expert_network_count(mixture, 16, 64)
    LinearCount(params=16528, flops=8448, input_gradient=256)
    """
    router = width * mixture.experts
    up = structured_count(mixture.structure, width, hidden, bias=False)
    down = structured_count(mixture.structure, hidden, width, bias=False)
    params = router + mixture.experts * (up.params + down.params)
    return LinearCount(params, 2 * router + mixture.top * (up.flops + down.flops), 2 * router)


def rule_layer(layer: LayerSpec) -> LayerSpec:
    """The structure of single layers by the rule `structured_linear`: one expert's, if experts are whole networks."""
    return expert_of(layer) if isinstance(layer, MixtureOfExperts) and layer.feed_forward else layer


def mlp_count(
    input_size: int, width: int, output_size: int, *, depth: int, layer: LayerSpec, dense_input: bool
) -> NetworkCount:
    """Parameters and FLOPs of an `MLP` whose layers carry `layer`; the network checks its sizes when it is built.

    >>> from einsearch_cli.structures import parse_layer
    >>> mlp_count(8, 16, 1, depth=3, layer=parse_layer("dense"), dense_input=True).flops
    FlopCount(linears=768, attention=0, head=32)
    """
    layer = rule_layer(layer)
    head = dense_count(width, output_size, bias=True)
    sides = input_size, width
    first = dense_count(*sides, bias=True) if dense_input else structured_count(layer, *sides, bias=True)
    hidden = structured_count(layer, width, width, bias=True) if depth > 2 else LinearCount(0, 0, 0)
    inner = depth - 2
    flops = FlopCount(linears=first.flops + inner * hidden.flops, attention=0, head=head.flops)
    return NetworkCount(
        params=first.params + inner * hidden.params + head.params,
        flops=flops,
        training=flops.of_training(spared_linears=first.input_gradient),  # the samples need no gradient
    )
