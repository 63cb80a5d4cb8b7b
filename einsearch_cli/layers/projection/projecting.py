"""`project_`: make a layer's matrix the nearest to a dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.factor_values import evenly_scaled, set_factors_
from einsearch_cli.layers.plans.plan import factor_roles
from einsearch_cli.layers.projection.alternating import fit
from einsearch_cli.layers.projection.contracting import Factors, Target, product_of
from einsearch_cli.layers.projection.splitting import orders, split
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder, standard_order
from einsearch_cli.taxonomy import meeting_order

_CLOSED = 2
"""Factors up to which decompositions alone are exact."""
_MAX_TRIED = 36
"""Orders of the indices of input and output together; three on each side have as many."""
_NOTICEABLE = 1e-6
_EXACT = 1e-6
"""Relative distance at which no other order is tried: rounding of a weight in float32 leaves about 1e-7."""


@dataclass(frozen=True, slots=True)
class Projection:
    """How near a structure came to a dense matrix."""

    relative_error: float
    """‖W − structured W‖ / ‖W‖, Frobenius norms; 0 for W = 0."""
    is_optimal: bool
    """Whether no matrix of the structure is nearer in this order of features: known for up to two factors
    without padding."""
    order: FeatureOrder
    """In which order the layer counts its features now."""


@torch.no_grad()
def project_(layer: EinsumLinear, weight: Tensor) -> Projection:
    """Give a layer the factors whose product is nearest to a dense matrix, in the Frobenius norm.

    With up to two factors (low-rank, Kronecker, tensor-train, Monarch,
    BTT, BlockShuffle, BlockDense, …) by singular value decompositions, which is exact; with
    more factors the same gives a start for alternating least squares, which ends in a
    local minimum. Computed in float64. The bias stays as it is; the gain becomes what
    the rms caps of the factors take away.

    A layer that was built without an order of features gets one, as a matrix has a structure in some order only:
    the standard order (`torch.kron(A, B)`, row-major: see `docs/families.md`), or of all orders of its indices, if
    they are at most 36, and its own, the nearest. A general matrix takes the time of all these orders. To try one order
    only, build the layer with `order=`. `layer.order` is that order then. A layer
    with an order, such as that of an equation, keeps it.

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
    >>> layer = EinsumLinear(64, 64, "kronecker", bias=False)
    >>> found = project_(layer, torch.kron(torch.randn(8, 8), torch.randn(8, 8)))
    >>> found.relative_error < 1e-5, str(FeatureOrder(*found.order.sides))
    (True, 'XA,XB/YA,YB')
    """
    _check(layer, weight)
    wanted = weight.detach().to("cpu", torch.float64)
    found = _nearest([layer.sized.ordered(order) for order in orders_tried(layer)], wanted)
    if layer.is_order_open:
        layer.order = found.target.sized.order
    factors, is_optimal = found.finished()
    set_factors_(layer, evenly_scaled(layer, factors))
    norm = torch.linalg.vector_norm(wanted).item()
    distance = torch.linalg.vector_norm(wanted - layer.to_dense().to(wanted)).item()
    return Projection(distance / norm if norm else 0.0, is_optimal, layer.order)


def orders_tried(layer: EinsumLinear) -> list[FeatureOrder]:
    """The standard order, the layer's own, and all others if they are few; of a layer with an order, only that."""
    own = FeatureOrder(*layer.order.sides)
    standard = layer.sized.ordered(standard_order(layer.structure)).order
    if not layer.is_order_open or standard is None:
        return [own]
    found = [standard, own]
    if math.prod(math.factorial(len(side)) for side in standard.sides) <= _MAX_TRIED:
        inputs, outputs = (permutations(side) for side in standard.sides)
        found += [FeatureOrder(*both) for both in product(inputs, outputs)]
    return list(dict.fromkeys(found))


def nearest_factors(sized: SizedStructure, weight: Tensor) -> tuple[Factors, bool]:
    """The nearest factors that are found, and whether there are none nearer; singular values are split evenly.

    Args:
        sized: with the order in which the features of the matrix count.
        weight: (d_out, d_in), on the CPU and in float64, as the factors are.
    """
    return _start(sized, weight).finished()


@dataclass(frozen=True, slots=True)
class _Start:
    target: Target
    factors: list[Factors]
    """By decompositions, in up to three orders of the factors."""
    distance: float
    """Frobenius distance from the target to the product of the first of these."""

    def finished(self) -> tuple[Factors, bool]:
        is_closed = len(self.target.sized.factors) <= _CLOSED and not self.target.has_free_entries
        return (self.factors[0] if is_closed else fit(self.target, self.factors)), is_closed


def _nearest(several: Sequence[SizedStructure], weight: Tensor) -> _Start:
    """The nearest start over several orders of features; of equally near ones the first.

    The search ends at the first order that is exact up to rounding. With more than two factors it compares distances
    before alternating least squares, which are zero too where the matrix has the structure.
    """
    exact = _EXACT * torch.linalg.vector_norm(weight).item()
    best = _start(several[0], weight)
    for sized in several[1:]:
        if best.distance <= exact:
            break
        found = _start(sized, weight)
        if found.distance < best.distance * (1 - _NOTICEABLE):
            best = found
    return best


def _start(sized: SizedStructure, weight: Tensor) -> _Start:
    target = Target(sized, weight)
    roles = {role.factor: role for role in factor_roles(sized, meeting_order(sized))}
    found = [split(sized, target.values, target.axes, roles, order) for order in orders(sized)]
    product_now = product_of(sized, found[0], target.axes)
    return _Start(target, found, target.distance(product_now))


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
