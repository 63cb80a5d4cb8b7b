"""Fitting for given inputs: errors are weighted by the second moment of the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from einsearch_cli.projection.contracting import Axes, Factors, Labelled, Target, contracted
from einsearch_cli.sizing import SizedStructure

# Axes in this file: B batch, N unknowns of one system, R bonds, and I, I' input features that only one factor carries.

_ITERATIONS = 4
"""Conjugate-gradient steps for a factor before the next factor; 32 take nine times as long and end equally near."""
_LARGEST = 1 << 25
"""The most elements for which all matrices of the normal equations are formed."""
_RIDGE = 1e-10
"""Part of its mean by which the diagonal of a matrix is raised before it is inverted."""


def again(axis: str) -> str:
    """The second name of an axis that is summed over twice."""
    return axis + "'"


def once(axis: str) -> str:
    """The axis behind a name, which may be its second name."""
    return axis.rstrip("'")


def is_input(axis: str) -> bool:
    """Whether an axis belongs to the input alone; axes that the output shares are fixed with the output."""
    return "X" in axis and "Y" not in axis


class WeightedProblem:
    """The nearest product for inputs of a given second moment.

    With M = E[x xᵀ], the distance from W to V is the root of E‖(W − V) x‖² = tr((W − V) M (W − V)ᵀ).

    Args:
        target: the target of the matrix W.
        weight: the matrix W, (d_out, d_in).
        moment: the moment M, (d_in, d_in), symmetric and positive semidefinite.
    """

    tolerance = 3e-3

    def __init__(self, target: Target, weight: Tensor, moment: Tensor) -> None:
        self.target = target
        self._weight, self._second_moment = weight, moment
        sized = target.sized
        rows, columns = sized.padded_out - sized.d_out, sized.padded_in - sized.d_in
        padded = torch.nn.functional.pad(moment, (0, columns, 0, columns)) if columns else moment
        self.moment = _by_index(sized, target.axes, padded)
        """The moment with the axes of the input, and once more with each of them `again`."""
        self._wanted = target.by_index(torch.nn.functional.pad(weight @ moment, (0, columns, 0, rows)))
        known = torch.nn.functional.pad(torch.ones(sized.d_out, sized.padded_in), (0, 0, 0, rows))
        self._known = target.by_index(known) > 0 if rows else None
        self._norm = self.distance(torch.zeros_like(target.values))

    @property
    def is_whitened(self) -> bool:
        """Whether one factor carries all inputs alone, so that it can mix them freely."""
        inputs = {c for c in self.target.axes if "X" in c}
        return any(
            set(_roles(self.target.sized, self.target.axes, factor).own) == inputs
            for factor in self.target.sized.factors
        )

    def weighed(self, product: Tensor) -> Tensor:
        """The product times the moment, with the axes of the product."""
        axes = self.target.axes
        moved = tuple(again(c) if is_input(c) else c for c in axes)
        return contracted([(moved, product), self.moment], axes)

    def pull(self, product: Tensor) -> Tensor:
        """The target times the moment; rows that exist only because of padding are as in `product`."""
        return self._wanted if self._known is None else torch.where(self._known, self._wanted, self.weighed(product))

    def distance(self, product: Tensor) -> float:
        """The root of E‖(W − V) x‖² for the matrix V of a product."""
        difference = self._weight - self.target.dense(product)
        return math.sqrt(max(0.0, ((difference @ self._second_moment) * difference).sum().item()))

    def error(self, pull: Tensor, product: Tensor) -> float:  # noqa: ARG002
        """The distance divided by that of a zero matrix."""
        return self.distance(product) / self._norm if self._norm else 0.0

    def improved(self, pull: Tensor, factors: Factors, factor: str) -> Tensor:
        """A factor for which the product with all others is nearer to the target; the best one, if that is fast."""
        sized, axes = self.target.sized, self.target.axes
        roles = _roles(sized, axes, factor)
        systems, unknowns = (
            math.prod(sized.size(c) for c in group)
            for group in (roles.batch, (*roles.shared, *roles.own, *roles.bonds))
        )
        # Multiply-adds of a decomposition, compared with those of products with the moment, one for the residual
        # included.
        exact, iterated = systems * unknowns**3 / 3, (_ITERATIONS + 1) * 2 * sized.d_in**2 * sized.d_out
        if exact <= iterated and systems * unknowns**2 <= _LARGEST:
            return _best(self, pull, factors, factor)
        return _solved(self, pull, factors, factor, _ITERATIONS)


def _by_index(sized: SizedStructure, axes: Axes, moment: Tensor) -> Labelled:
    """Map (padded_in, padded_in) to the axes; shared indices of X and Y take the diagonal, or a sum without factors."""
    inputs = sized.features("X")
    both = (*inputs, *(again(c) if is_input(c) else c for c in inputs))
    wanted = tuple(dict.fromkeys(c for c in both if once(c) in axes))
    values = moment.reshape([sized.size(once(c)) for c in both])
    return wanted, contracted([(both, values)], wanted)


@dataclass(frozen=True, slots=True)
class _Roles:
    """The roles of one factor's axes for the others."""

    batch: Axes
    """Axes of the output; for each of their values, the factor has a separate least-squares problem."""
    rows: Axes
    """Axes of the output and of no other factor; the problems for their values share one matrix."""
    shared: Axes
    """Axes of the input that other factors carry too."""
    own: Axes
    """Axes of the input that no other factor carries."""
    bonds: Axes


def _roles(sized: SizedStructure, axes: Axes, factor: str) -> _Roles:
    carried = sized.carriers_of(factor)
    elsewhere = {c for other in sized.factors if other != factor for c in sized.carriers_of(other)}
    outputs = [c for c in carried if "Y" in c]
    return _Roles(
        batch=tuple(c for c in outputs if c in elsewhere or "X" in c),
        rows=tuple(c for c in outputs if c not in elsewhere and "X" not in c),
        shared=tuple(c for c in carried if is_input(c) and c in elsewhere),
        own=tuple(c for c in carried if is_input(c) and c not in elsewhere),
        bonds=tuple(c for c in carried if c not in axes),
    )


def _best(problem: WeightedProblem, pull: Tensor, factors: Factors, factor: str) -> Tensor:
    """The factor for which the product with all others is nearest to the target, by its normal equations."""
    sized, axes = problem.target.sized, problem.target.axes
    carried = sized.carriers_of(factor)
    others = [(sized.carriers_of(name), value) for name, value in factors.items() if name != factor]
    roles = _roles(sized, axes, factor)
    unknowns = (*roles.shared, *roles.own, *roles.bonds)
    twice = [(tuple(c if "Y" in c else again(c) for c in own), value) for own, value in others]
    gram = contracted([problem.moment, *others, *twice], (*roles.batch, *unknowns, *map(again, unknowns)))
    n, p = (math.prod(sized.size(c) for c in group) for group in (unknowns, roles.rows))
    right = contracted([(axes, pull), *others], (*roles.batch, *unknowns, *roles.rows)).reshape(-1, n, p)
    solved = torch.cholesky_solve(right, torch.linalg.cholesky(_raised(gram.reshape(-1, n, n))))
    names = (*roles.batch, *unknowns, *roles.rows)
    return solved.reshape([sized.size(c) for c in names]).permute([names.index(c) for c in carried])


def _solved(problem: WeightedProblem, pull: Tensor, factors: Factors, factor: str, iterations: int) -> Tensor:
    """A factor for which the product with all others is nearer to the target.

    The problem is linear in the factor, H(F) = R. It is solved by conjugate gradients from the present factor, so the
    distance cannot grow. The preconditioner is the part of H that couples no two values of a shared input axis,
    approximated by a Kronecker product: a matrix over the factor's own inputs times one over its bonds. So if no input
    axis is shared, the first iteration ends with the exact solution.
    """
    sized, axes = problem.target.sized, problem.target.axes
    carried = sized.carriers_of(factor)
    others = [(sized.carriers_of(name), value) for name, value in factors.items() if name != factor]
    roles = _roles(sized, axes, factor)
    summed = [carried.index(c) for c in (*roles.shared, *roles.own, *roles.bonds)]
    precondition = _preconditioner(problem, others, roles, carried)

    def normal(value: Tensor) -> Tensor:
        product = contracted([(carried, value), *others], axes)
        return contracted([(axes, problem.weighed(product)), *others], carried)

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=summed, keepdim=True) if summed else first * second

    value = factors[factor]
    residual = contracted([(axes, pull), *others], carried) - normal(value)
    step = precondition(residual)
    size = dot(residual, step)
    for _ in range(iterations):
        image = normal(step)
        curvature = dot(step, image)
        length = torch.where(curvature > 0, size / curvature, 0.0)
        value = value + length * step
        residual = residual - length * image
        conditioned = precondition(residual)
        before, size = size, dot(residual, conditioned)
        step = conditioned + torch.where(before > 0, size / before, 0.0) * step
    return value


def _preconditioner(
    problem: WeightedProblem, others: list[Labelled], roles: _Roles, carried: Axes
) -> Callable[[Tensor], Tensor]:
    blocks = (*roles.shared, *roles.batch)
    own, of_blocks = _over_own_inputs(problem, roles)
    names, moment = problem.moment
    rest = tuple(dict.fromkeys(c for c in names if once(c) not in carried))
    kept = tuple(c for c in blocks if c in names)
    # The trace over the factor's own inputs leaves the part that couples the inputs of the others.
    same = tuple(once(c) if once(c) in carried else c for c in names)
    of_others = _divided(contracted([(same, moment)], (*kept, *rest)), own.diagonal(dim1=-2, dim2=-1).sum(-1), rest)
    twice = [(tuple(c if "Y" in c or c in blocks else again(c) for c in axes), value) for axes, value in others]
    primed = tuple(map(again, roles.bonds))
    gram = contracted([((*kept, *rest), of_others), *others, *twice], (*blocks, *roles.bonds, *primed))
    sizes = [problem.target.sized.size(once(c)) for c in (*blocks, *roles.bonds, *primed)]
    r = math.prod(problem.target.sized.size(c) for c in roles.bonds)
    of_bonds = _inverse(gram.reshape(-1, r, r)).reshape(sizes)
    of_inputs = _inverse(own).reshape([problem.target.sized.size(once(c)) for c in of_blocks])
    moved = _moved(carried, (*roles.own, *roles.bonds))

    def precondition(value: Tensor) -> Tensor:
        operands = [(moved, value), (of_blocks, of_inputs), ((*blocks, *roles.bonds, *primed), of_bonds)]
        return contracted(operands, carried)

    return precondition


def _over_own_inputs(problem: WeightedProblem, roles: _Roles) -> tuple[Tensor, Axes]:
    """The moment of a factor's own inputs in every block, (B, I, I), and the axes of the blocks."""
    names, moment = problem.moment
    blocks = tuple(c for c in (*roles.shared, *roles.batch) if c in names)
    same = tuple(c if once(c) in roles.own else once(c) for c in names)
    axes = (*blocks, *roles.own, *map(again, roles.own))
    i = math.prod(problem.target.sized.size(c) for c in roles.own)
    return contracted([(same, moment)], axes).reshape(-1, i, i), axes


def _divided(value: Tensor, by: Tensor, rest: Axes) -> Tensor:
    shape = value.shape[: value.ndim - len(rest)]
    return value / by.clamp_min(torch.finfo(value.dtype).tiny).reshape([*shape, *(1 for _ in rest)])


def _raised(matrices_BNN: Tensor) -> Tensor:
    """A copy that can be inverted, however many inputs are always zero or always equal."""
    raised = matrices_BNN.clone()
    diagonal = raised.diagonal(dim1=-2, dim2=-1)  # a view
    diagonal += _RIDGE * diagonal.mean().clamp_min(torch.finfo(raised.dtype).tiny ** 0.5)
    return raised


def _inverse(matrices_BNN: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(_raised(matrices_BNN)))


def whitened_starts(problem: WeightedProblem, split: Callable[[Tensor], list[Factors]]) -> list[Factors]:
    """Factors by decompositions in coordinates with uncorrelated inputs, as far as a factor can mix these.

    Every factor may mix the inputs that it alone carries. So these are made uncorrelated, on average over all other
    inputs: W L with M = L Lᵀ is decomposed, and L⁻¹ goes into the factor. For low-rank matrices this is the best result
    (Wang et al. 2024, SVD-LLM, arXiv 2403.07378), for others a start.

    Args:
        problem: the problem of all factors together.
        split: returns several lists of factors for a matrix with the axes of the target.
    """
    sized, axes = problem.target.sized, problem.target.axes
    values = problem.target.values
    roots: dict[str, tuple[Axes, Axes, Tensor]] = {}
    for factor in sized.factors:
        roles = _roles(sized, axes, factor)
        if not roles.own:
            continue
        moment_BII, names = _over_own_inputs(problem, roles)
        root_BII = torch.linalg.cholesky(_raised(moment_BII))
        del moment_BII  # large for wide layers
        blocks = names[: len(names) - 2 * len(roles.own)]
        turned = (*blocks, *map(again, roles.own), *roles.own)
        root = root_BII.reshape([sized.size(once(c)) for c in names])
        values = contracted([(_moved(axes, roles.own), values), (turned, root)], axes)
        roots[factor] = blocks, roles.own, root_BII
    found = split(values)
    for factor, (blocks, own, root_BII) in roots.items():
        for factors in found:
            factors[factor] = _unwhitened(factors[factor], sized.carriers_of(factor), blocks, own, root_BII)
    return found


def _unwhitened(value: Tensor, carried: Axes, blocks: Axes, own: Axes, root_BII: Tensor) -> Tensor:
    """A factor times L⁻¹."""
    order = (*blocks, *(c for c in carried if c not in blocks and c not in own), *own)
    arranged = value.permute([carried.index(c) for c in order])
    b, i = root_BII.shape[:2]
    solved: Tensor = torch.linalg.solve_triangular(root_BII, arranged.reshape(b, -1, i), upper=False, left=False)
    return solved.reshape(arranged.shape).permute([order.index(c) for c in carried])


def _moved(axes: Axes, those: Axes) -> Axes:
    return tuple(again(c) if c in those else c for c in axes)
