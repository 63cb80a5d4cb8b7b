"""Multilayer perceptron with ReLU: the student of the teacher task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from einsearch_cli.errors import SizeError
from einsearch_cli.models.base import (
    LinearRule,
    StructuredNetwork,
    dense_linear,
    input_gradient_flops,
    linear_flops,
    zero_head,
)
from einsearch_cli.models.counts import FlopCount
from einsearch_cli.projection.initialisation import start_at_unit_rms_

# Axes in this file: B batch, I input, W width, O output.


class MLP(StructuredNetwork):
    """`depth` linear layers with ReLU between them: input, `depth - 2` hidden ones, and the dense head.

    There are no norms between the layers, so each has to start with outputs of unit rms: `start_at_unit_rms_`.

    Args:
        input_size: numbers per sample.
        width: size of every hidden layer.
        output_size: numbers predicted per sample.
        depth: linear layers, head included; at least 2.
        make_linear: rule for every layer but the head.
        dense_input: make the input layer dense regardless of the rule.

    Raises:
        SizeError: depth below 2 or a size below 1.

    >>> model = MLP(8, 16, 1, depth=3, make_linear=nn.Linear)
    >>> model(torch.ones(5, 8)).tolist() == [[0.0]] * 5         # the head starts at zero
    True
    >>> model.flops_per_token()
    FlopCount(linears=768, attention=0, head=32)
    """

    head: nn.Linear

    def __init__(
        self,
        input_size: int,
        width: int,
        output_size: int,
        *,
        depth: int,
        make_linear: LinearRule,
        dense_input: bool = False,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise SizeError(
                f"an MLP of depth {depth}: the input layer and the head are already 2",
                remedy="give a depth of 2 or more",
            )
        if min(input_size, width, output_size) < 1:
            raise SizeError(
                f"an MLP with sizes {input_size} -> {width} -> {output_size}: every size has to be at least 1",
                remedy="give whole numbers from 1 on",
            )
        self.width = width
        make_first = dense_linear if dense_input else make_linear
        hidden = [make_linear(width, width, True) for _ in range(depth - 2)]
        self.layers = nn.ModuleList([make_first(input_size, width, True), *hidden])
        start_at_unit_rms_(self.layers)
        self.head = zero_head(width, output_size, bias=True)

    def forward(self, x_BI: Tensor) -> Tensor:
        """Predictions, (B, O), for samples, (B, I)."""
        hidden_BW = x_BI
        for layer in self.layers:
            hidden_BW = F.relu(layer(hidden_BW))
        return torch.as_tensor(self.head(hidden_BW))

    def flops_per_token(self) -> FlopCount:
        """Forward FLOPs per sample; the input layer counts as a linear layer."""
        return FlopCount(
            linears=sum(linear_flops(layer) for layer in self.layers), attention=0, head=linear_flops(self.head)
        )

    def training_flops_per_token(self) -> FlopCount:
        """FLOPs per sample of a forward and a backward pass; the samples need no gradient.

        >>> MLP(8, 16, 1, depth=3, make_linear=nn.Linear).training_flops_per_token().linears  # 3 x 768 - 2 x 8 x 16
        2048
        """
        return self.flops_per_token().of_training(spared_linears=input_gradient_flops(self.layers[0]))

    def fan_in_scales(self, layer: str) -> bool:
        """True for all layers but the first, which reads the samples."""
        return layer != "layers.0"
