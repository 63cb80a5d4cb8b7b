"""Alternating least squares: one factor after another is fitted while the others stay fixed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from einsearch_cli.projection.contracting import Factors, Target, contracted, product_of

# Axes in this file: B batch of blocks, P rows and Q columns of a block, R and R' bond.

_TRIAL_SWEEPS = 20
"""Sweeps from every start, after which only the best one continues."""
_SWEEPS = 400
_EXACT = 1e-11
_RIDGE = 1e-12
"""Part of its mean by which the diagonal of the normal equations is raised, so that they always have a solution."""


class Problem(Protocol):
    """The problem to which factors are fitted."""

    @property
    def target(self) -> Target:
        """The matrix with the axes of the structure."""

    @property
    def tolerance(self) -> float:
        """The relative decrease of the error in ten sweeps below which the fit ends."""

    def pull(self, product: Tensor) -> Tensor:
        """The right side for every factor, with free entries as in `product`."""

    def error(self, pull: Tensor, product: Tensor) -> float:
        """Relative distance from the target to a product, which the fit lowers."""

    def improved(self, pull: Tensor, factors: Factors, factor: str) -> Tensor:
        """A better or the best value of one factor, with the others fixed."""


@dataclass(frozen=True, slots=True)
class PlainProblem:
    """The nearest product in the Frobenius norm, over the entries that are not free."""

    target: Target
    tolerance: float = 1e-3

    def pull(self, product: Tensor) -> Tensor:
        """The target, with free entries as in `product`."""
        return self.target.filled(product)

    def error(self, pull: Tensor, product: Tensor) -> float:
        """‖target − product‖ / ‖target‖ over the entries that are not free."""
        norm = torch.linalg.vector_norm(self.target.values).item()
        error = torch.linalg.vector_norm(pull - product).item()
        return error / norm if norm else 0.0

    def improved(self, pull: Tensor, factors: Factors, factor: str) -> Tensor:
        """The best factor, with the others fixed."""
        return _best(self.target, pull, factors, factor)


@dataclass(slots=True)
class _State:
    factors: Factors
    pull: Tensor
    error: float


def fit(problem: Problem, starts: Iterable[Factors]) -> Factors:
    """The best factors that alternating least squares finds from any of the starts.

    After every sweep over the factors, their last change is tried again, somewhat larger from sweep to sweep, and kept
    if that lowers the error. Harshman 1970 does so for canonical polyadic decompositions. It takes three times fewer
    sweeps if several factors share a bond.
    """
    states = (_sweeps(problem, _state(problem, start), _TRIAL_SWEEPS) for start in starts)
    best = min(states, key=lambda state: state.error)
    return _sweeps(problem, best, _SWEEPS).factors


def _sweeps(problem: Problem, state: _State, count: int) -> _State:
    milestone = math.inf
    for number in range(count):
        if state.error < _EXACT:
            break
        if number % 10 == 0:
            if milestone - state.error < problem.tolerance * state.error:
                break
            milestone = state.error
        state = _sweep(problem, state, step=(number + 1) ** (1 / 3))
    return state


def _sweep(problem: Problem, state: _State, step: float) -> _State:
    factors = dict(state.factors)
    for factor in factors:
        factors[factor] = problem.improved(state.pull, factors, factor)
    found = _state(problem, factors)
    further = {
        factor: torch.lerp(state.factors[factor], value, step) if step > 1 else value
        for factor, value in factors.items()
    }
    return min(found, _state(problem, further), key=lambda one: one.error)


def error_of(problem: Problem, factors: Factors) -> float:
    """Relative distance from the target to the product of factors."""
    return _state(problem, factors).error


def _state(problem: Problem, factors: Factors) -> _State:
    product = product_of(problem.target.sized, factors, problem.target.axes)
    pull = problem.pull(product)
    return _State(factors, pull, problem.error(pull, product))


def _best(target: Target, values: Tensor, factors: Factors, factor: str) -> Tensor:
    """The factor for which the product with all others is nearest to the target.

    For fixed values of the indices that it shares with the others and with input or output, this is an ordinary
    least-squares problem, target[P, Q] ≈ factor[P, R] · others[R, Q]. It is solved by its normal equations.
    """
    sized, axes = target.sized, target.axes
    others = [(sized.carriers_of(name), value) for name, value in factors.items() if name != factor]
    again = [(tuple(c if c in axes else c + "'" for c in own), value) for own, value in others]
    carried = sized.carriers_of(factor)
    batch = tuple(c for c in axes if factor in c and any(c in own for own, _ in others))
    rows = tuple(c for c in axes if factor in c and c not in batch)
    bonds = tuple(c for c in carried if c not in axes)
    b, p, r = (math.prod(sized.size(c) for c in group) for group in (batch, rows, bonds))
    gram_BRR = contracted([*others, *again], (*batch, *bonds, *(c + "'" for c in bonds))).reshape(b, r, r).clone()
    right_BRP = contracted([(axes, values), *others], (*batch, *bonds, *rows)).reshape(b, r, p)
    diagonal_BR = gram_BRR.diagonal(dim1=-2, dim2=-1)  # a view
    diagonal_BR += _RIDGE * diagonal_BR.mean(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny ** 0.5)
    solved_BRP = torch.cholesky_solve(right_BRP, torch.linalg.cholesky(gram_BRR))
    found = solved_BRP.mT.reshape([sized.size(c) for c in (*batch, *rows, *bonds)])
    return found.permute([(*batch, *rows, *bonds).index(c) for c in carried])
