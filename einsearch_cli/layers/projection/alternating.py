"""Factors by alternating least squares: one after another is made the best for the others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from einsearch_cli.layers.projection.contracting import Axes, Factors, Target, contracted, product_of
from einsearch_cli.sizing import SizedStructure

# Axes in this file: B batch of blocks, P rows and Q columns of a block, R and R' bond.

_TRIAL_SWEEPS = 20
"""From every start; only the best goes on."""
_SWEEPS = 400
_TOLERANCE = 1e-3
"""Ten sweeps that lower the error by less than this part of it are the last."""
_EXACT = 1e-11
_RIDGE = 1e-12
"""Part of its mean by which the diagonal of the normal equations is raised, so that they always have a solution."""


@dataclass(slots=True)
class _State:
    factors: Factors
    values: Tensor
    """The target, its free entries as the factors give them."""
    error: float
    """‖target − product‖ / ‖target‖ over the entries that are not free."""


def fit(target: Target, starts: Iterable[Factors]) -> Factors:
    """The best factors that alternating least squares finds from any of the starts.

    After every sweep over the factors their last change is tried once more, and somewhat larger from sweep
    to sweep, and kept if that lowers the error (Harshman 1970 does so for canonical polyadic
    decompositions): three times fewer sweeps where several factors share a bond.
    """
    states = (_sweeps(target, _state(target, start), _TRIAL_SWEEPS) for start in starts)
    best = min(states, key=lambda state: state.error)
    return _sweeps(target, best, _SWEEPS).factors


def _sweeps(target: Target, state: _State, count: int) -> _State:
    milestone = math.inf
    for number in range(count):
        if state.error < _EXACT:
            break
        if number % 10 == 0:
            if milestone - state.error < _TOLERANCE * state.error:
                break
            milestone = state.error
        state = _sweep(target, state, step=(number + 1) ** (1 / 3))
    return state


def _sweep(target: Target, state: _State, step: float) -> _State:
    factors = dict(state.factors)
    for factor in factors:
        factors[factor] = _best(target.sized, state.values, target.axes, factors, factor)
    found = _state(target, factors)
    further = {
        factor: torch.lerp(state.factors[factor], value, step) if step > 1 else value
        for factor, value in factors.items()
    }
    return min(found, _state(target, further), key=lambda one: one.error)


def _state(target: Target, factors: Factors) -> _State:
    product = product_of(target.sized, factors, target.axes)
    values = target.filled(product)
    norm = torch.linalg.vector_norm(target.values).item()
    error = torch.linalg.vector_norm(values - product).item()
    return _State(factors, values, error / norm if norm else 0.0)


def _best(sized: SizedStructure, values: Tensor, axes: Axes, factors: Factors, factor: str) -> Tensor:
    """The factor for which the product with all others is nearest to the target.

    For fixed values of the indices that it shares with the others and with input or output, this is an
    ordinary least-squares problem, target[P, Q] ≈ factor[P, R] · others[R, Q], solved by its normal equations.
    """
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
