"""Give a layer chosen factors, so that its matrix is exactly their product."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.execution.scaling import scale_of


@torch.no_grad()
def set_factors_(layer: EinsumLinear, tensors: Mapping[str, Tensor]) -> None:
    """Store factors, and a gain that makes up for their rms caps, so that `to_dense()` is their product.

    A factor with an rms above its init std is divided by their ratio in every pass; the gain is the product of these
    ratios, or 1.

    Args:
        layer: the layer that gets the values; its bias stays.
        tensors: every factor with an axis for each of its indices, as `factor_tensor` gives it.

    Raises:
        LayerError: if the layer is not a plain `EinsumLinear`.

    >>> layer = EinsumLinear(4, 4, "low-rank:r=2", bias=False)
    >>> set_factors_(layer, {"A": torch.full((4, 2), 6.0), "B": torch.full((4, 2), 0.5)})
    >>> layer.to_dense()[0], round(layer.gain.item(), 3)   # 2 · 6.0 · 0.5; the cap of A is √2 / 4
    (tensor([6., 6., 6., 6.], grad_fn=<SelectBackward0>), 16.971)
    """
    if type(layer) is not EinsumLinear:
        raise LayerError(
            f"factors given to a {type(layer).__name__}: only an EinsumLinear is made of these alone",
            remedy="initialise or project before guide_layers; layers of experts have no single matrix",
        )
    for step in layer.plan.steps:
        stored = step.axes
        carried = layer.sized.carriers_of(step.factor)
        live = [carriers for carriers in carried if carriers in stored]  # axes of size 1 are left out
        values = tensors[step.factor].reshape([layer.sized.size(carriers) for carriers in live])
        permuted = values.permute([live.index(carriers) for carriers in stored])
        layer.factors[step.factor].copy_(permuted.reshape(step.weight_shape))
    factors = [layer.factors[role.factor] for role in layer.plan.roles]
    layer.gain.fill_(1.0)
    layer.gain.fill_(1 / scale_of(layer.gain, factors, layer.plan.limits).value)


def evenly_scaled(layer: EinsumLinear, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors multiplied by numbers that make them equally large relative to their init std, with the same product.

    Learning rates of the factors suit these proportions. If the product is zero, the factors stay.
    """
    ratios = {
        role.factor: tensors[role.factor].square().mean().sqrt().item() / role.init_std for role in layer.plan.roles
    }
    if min(ratios.values()) == 0:
        return dict(tensors)
    mean = math.exp(math.fsum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
    return {factor: tensors[factor] * (mean / ratio) for factor, ratio in ratios.items()}
