"""`project_`: make a layer's matrix the nearest to a dense one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.factor_values import evenly_scaled, set_factors_
from einsearch_cli.layers.projection.alternating import fit
from einsearch_cli.layers.projection.contracting import Factors
from einsearch_cli.layers.projection.splitting import orders, split
from einsearch_cli.layers.projection.target import Target


@dataclass(frozen=True, slots=True)
class Projection:
    """How near a structure came to a dense matrix."""

    relative_error: float
    """‖W − structured W‖ / ‖W‖, Frobenius norms; 0 for W = 0."""
    is_optimal: bool
    """Whether no matrix of the structure is nearer: known for up to two factors without padding."""


@torch.no_grad()
def project_(layer: EinsumLinear, weight: Tensor) -> Projection:
    """Give a layer the factors whose product is nearest to a dense matrix, in the Frobenius norm.

    In the layer's own order of features. With up to two factors (low-rank, Kronecker, tensor-train, Monarch,
    BTT, BlockShuffle, BlockDense, …) by singular value decompositions, which is exact; with
    more factors the same gives a start for alternating least squares, which ends in a
    local minimum. Computed in float64. The bias stays as it is; the gain becomes what
    the rms caps of the factors take away.

    Args:
        layer: a structured layer; its matrix is overwritten.
        weight: (out_features, in_features).

    Raises:
        LayerError: if the weight has another shape or is not finite, or the layer is no plain `EinsumLinear`.

    >>> from torch import nn
    >>> weight = nn.Linear(64, 64).weight
    >>> layer = EinsumLinear(64, 64, "low-rank:r=32")
    >>> found = project_(layer, weight)
    >>> error = torch.linalg.svdvals(weight)[32:].norm() / weight.norm()
    >>> found.is_optimal, abs(found.relative_error - error.item()) < 1e-5
    (True, True)
    """
    _check(layer, weight)
    wanted = weight.detach().to("cpu", torch.float64)
    factors, is_optimal = nearest_factors(layer, wanted)
    set_factors_(layer, evenly_scaled(layer, factors))
    norm = torch.linalg.vector_norm(wanted).item()
    distance = torch.linalg.vector_norm(wanted - layer.to_dense().to(wanted)).item()
    return Projection(distance / norm if norm else 0.0, is_optimal)


def nearest_factors(layer: EinsumLinear, weight: Tensor) -> tuple[Factors, bool]:
    """The nearest factors that are found, and whether there are none nearer; singular values are split evenly.

    Factors and weight, (out_features, in_features), are on the CPU and in float64.
    """
    target, sized = Target(layer, weight), layer.sized
    roles = {role.factor: role for role in layer.plan.roles}
    starts = [split(sized, target.values, target.axes, roles, order) for order in orders(sized)]
    is_closed = len(sized.factors) <= 2 and not target.has_free_entries
    return (starts[0] if is_closed else fit(target, starts)), is_closed


def _check(layer: EinsumLinear, weight: Tensor) -> None:
    shape = (layer.out_features, layer.in_features)
    if tuple(weight.shape) != shape:
        raise LayerError(
            f"weight of shape {tuple(weight.shape)}: the layer's matrix is (out_features, in_features) = {shape}",
            remedy="transpose it, or build the layer with its widths",
        )
    if bad := int((~torch.isfinite(weight)).sum()):
        raise LayerError(
            f"weight with {bad:,} of {weight.numel():,} entries NaN or infinite: nothing is near to it",
            remedy="look for the step of training at which it diverged",
        )
