"""`project_`: make a layer's matrix the nearest to a dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.plans.plan import factor_roles
from einsearch_cli.projection.alternating import PlainProblem, Problem, error_of, fit
from einsearch_cli.projection.contracting import Factors, Target, product_of
from einsearch_cli.projection.factor_values import evenly_scaled, set_factors_
from einsearch_cli.projection.splitting import orders, split
from einsearch_cli.projection.weighting import WeightedProblem, whitened_starts
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder, standard_order
from einsearch_cli.taxonomy import meeting_order

_CLOSED = 2
"""The most factors for which decompositions alone are exact."""
_MAX_TRIED = 36
"""The most orders of the indices of input and output together; three indices on each side have this many."""
_STARTS = 2
"""Number of starts of a fit for given inputs."""
_NOTICEABLE = 1e-6
_EXACT = 1e-6
"""Relative distance at which no other order is tried; float32 rounding of a weight leaves about 1e-7."""


@dataclass(frozen=True, slots=True)
class Projection:
    """The result of a projection: how near a structure came to a dense matrix."""

    relative_error: float
    """‖W − structured W‖ / ‖W‖, Frobenius norms; 0 for W = 0."""
    is_optimal: bool
    """Whether no matrix of the structure is nearer in this order; known for up to two factors without padding."""
    order: FeatureOrder
    """The order in which the layer now counts its features."""
    output_error: float | None = None
    """√(E‖(W − structured W) x‖² / E‖W x‖²) for inputs x of the given second moment; None without a moment."""


@torch.no_grad()
def project_(layer: EinsumLinear, weight: Tensor, moment: Tensor | None = None) -> Projection:
    """Give a layer the factors whose product is nearest to a dense matrix, in the Frobenius norm or for its inputs.

    With up to two factors (low-rank, Kronecker, tensor-train, Monarch, BTT, BlockShuffle, BlockDense, …), singular
    value decompositions give the exact result. With more factors, they give a start for alternating least squares,
    which ends in a local minimum. Everything is computed in float64. The bias stays unchanged; the gain undoes the rms
    caps of the factors.

    A matrix has a structure in some order of features only, so a layer that was built without an order gets one. The
    standard order is tried (`torch.kron(A, B)`, row-major: see `docs/reference/families.md`), the layer's own, and all
    orders of its indices if they are at most 36; the nearest wins. A general matrix takes the time of all these orders.
    To try one order only, build the layer with `order=`. `layer.order` is the chosen order. A layer with an order, such
    as that of an equation, keeps it.

    With `moment`, the second moment M = E[x xᵀ] of the layer's inputs, the projection makes outputs near to those of
    the dense matrix: it lowers E‖(W − V) x‖² = tr((W − V) M (W − V)ᵀ). For low-rank layers, this is an exact
    decomposition of W L with M = L Lᵀ (Wang et al. 2024, SVD-LLM, arXiv 2403.07378). Other structures start from such
    decompositions and from the projection without a moment, and continue by alternating least squares. So the outputs
    are never farther off than without a moment.

    Args:
        layer: a structured layer; its matrix is overwritten.
        weight: the dense matrix, (out_features, in_features).
        moment: the second moment, (in_features, in_features), symmetric and positive semidefinite.

    Raises:
        LayerError: if weight or moment have another shape or are not finite, or the layer is not a plain `EinsumLinear`.

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
    inputs = None if moment is None else _checked_moment(layer, moment)
    sized, factors, is_optimal = _projected(layer, wanted) if inputs is None else _weighted(layer, wanted, inputs)
    if layer.is_order_open:
        layer.order = sized.order
    set_factors_(layer, evenly_scaled(layer, factors))
    difference = wanted - layer.to_dense().to(wanted)
    error = None if inputs is None else relative_distance(difference, wanted, inputs)
    return Projection(relative_distance(difference, wanted), is_optimal, layer.order, error)


def relative_distance(difference: Tensor, weight: Tensor, moment: Tensor | None = None) -> float:
    """The ratio ‖D‖ / ‖W‖ for a difference D of matrices, or the root of E‖D x‖² / E‖W x‖²; 0 for W = 0."""
    of_both = [
        (matrix if moment is None else matrix @ moment).mul(matrix).sum().item() for matrix in (difference, weight)
    ]
    return math.sqrt(max(0.0, of_both[0]) / of_both[1]) if of_both[1] > 0 else 0.0


def _projected(layer: EinsumLinear, weight: Tensor) -> tuple[SizedStructure, Factors, bool]:
    found = _nearest([layer.sized.ordered(order) for order in orders_tried(layer)], weight)
    return found.problem.target.sized, *found.finished()


def _weighted(layer: EinsumLinear, weight: Tensor, moment: Tensor) -> tuple[SizedStructure, Factors, bool]:
    """The better of the projection without the moment, and of a fit in the order of features with the best start."""
    several = [layer.sized.ordered(order) for order in orders_tried(layer)]
    best = _nearest(several, weight, moment)
    sized = best.problem.target.sized
    factors, is_optimal = best.finished()
    if is_optimal:
        return sized, factors, True
    plain_sized, plain, _ = _projected(layer, weight)
    problem = _weighted_problem(plain_sized, weight, moment)
    if error_of(problem, plain) < error_of(best.problem, factors):
        return plain_sized, fit(problem, [plain]), False
    return sized, factors, False


def orders_tried(layer: EinsumLinear) -> list[FeatureOrder]:
    """The standard order, the layer's own, and all others if they are few; for a layer with an order, only that one."""
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
    """The nearest factors found, and whether none can be nearer; singular values are split evenly.

    Args:
        sized: the sized structure, with the order of the matrix's features.
        weight: the dense matrix, (d_out, d_in), on the CPU and in float64, like the factors.
    """
    return start_of(sized, weight).finished()


@dataclass(frozen=True, slots=True)
class _Start:
    problem: Problem
    factors: list[Factors]
    """Factors by decompositions, in up to three orders of the factors; the best first."""
    error: float
    """Error of the first of `factors`."""
    is_best: bool
    """Whether no factors are better than the first."""

    def finished(self) -> tuple[Factors, bool]:
        return (self.factors[0] if self.is_best else fit(self.problem, self.factors)), self.is_best


def _nearest(several: Sequence[SizedStructure], weight: Tensor, moment: Tensor | None = None) -> _Start:
    """The nearest start over several orders of features; the first among equally near ones.

    The search ends at the first order that is exact up to rounding. With more than two factors, it compares distances
    before alternating least squares, which are zero too if the matrix has the structure.
    """
    start = (
        partial(start_of, weight=weight) if moment is None else partial(_weighted_start, weight=weight, moment=moment)
    )
    best = start(several[0])
    for sized in several[1:]:
        if best.error <= _EXACT:
            break
        found = start(sized)
        if found.error < best.error * (1 - _NOTICEABLE):
            best = found
    return best


def start_of(sized: SizedStructure, weight: Tensor) -> _Start:
    """The factors from which projecting on one order of features starts."""
    target = Target(sized, weight)
    found = _decompositions(target, target.values)
    norm = torch.linalg.vector_norm(weight).item()
    distance = target.distance(product_of(sized, found[0], target.axes))
    is_best = len(sized.factors) <= _CLOSED and not target.has_free_entries
    return _Start(PlainProblem(target), found, distance / norm if norm else 0.0, is_best)


def _weighted_start(sized: SizedStructure, weight: Tensor, moment: Tensor) -> _Start:
    problem = _weighted_problem(sized, weight, moment)
    target = problem.target
    whitened = whitened_starts(problem, partial(_decompositions, target))
    is_best = problem.is_whitened and len(sized.factors) <= _CLOSED and not target.has_free_entries
    starts = whitened if is_best else [*whitened, *_decompositions(target, target.values)]
    starts.sort(key=lambda factors: error_of(problem, factors))
    return _Start(problem, starts[:_STARTS], error_of(problem, starts[0]), is_best)


def _weighted_problem(sized: SizedStructure, weight: Tensor, moment: Tensor) -> WeightedProblem:
    return WeightedProblem(Target(sized, weight), weight, moment)


def _decompositions(target: Target, values: Tensor) -> list[Factors]:
    """Factors of values with the target's axes, in up to three orders of the factors."""
    sized = target.sized
    roles = {role.factor: role for role in factor_roles(sized, meeting_order(sized))}
    return [split(sized, values, target.axes, roles, order) for order in orders(sized)]


def _checked_moment(layer: EinsumLinear, moment: Tensor) -> Tensor:
    """The moment on the CPU in float64."""
    d_in = layer.in_features
    if tuple(moment.shape) != (d_in, d_in):
        raise LayerError(
            f"moment of shape {tuple(moment.shape)}: that of the layer's inputs is (in_features, in_features) = {(d_in, d_in)}",
            remedy="give x.T @ x / len(x) for inputs x of shape (tokens, in_features)",
        )
    found = moment.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(found).all()):
        raise LayerError(
            "moment with entries that are NaN or infinite: inputs were not finite, or their squares too large",
            remedy="look for the layer before this one whose outputs are not finite",
        )
    return found


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
