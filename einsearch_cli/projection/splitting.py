"""Factors by singular value decompositions: best for two factors, a start for more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice, permutations

import torch
from torch import Tensor

from einsearch_cli.layers.plans.plan import FactorRole
from einsearch_cli.projection.contracting import Axes, Factors
from einsearch_cli.sizing import SizedStructure

# Axes in this file: B batch of blocks, P rows and Q columns of a block, R bond.

_MAX_ORDERS = 3
_MAX_TRIED = 5000
_ZERO = 1e-13
"""The part of the largest singular value below which others are float64 noise."""


def split(
    sized: SizedStructure, target: Tensor, axes: Axes, roles: dict[str, FactorRole], order: Sequence[str]
) -> Factors:
    """Split off one factor after another, each by a truncated decomposition of every block.

    For fixed values of the indices that two factors share with input or output, their product is a matrix. Its rows are
    the indices of the first factor alone, its columns those of the second alone, and its rank is at most the bond.
    These blocks are disjoint parts of the whole, so their best approximations (Eckart and Young 1936) together are the
    best for two factors. Low-rank matrices, rearranged Kronecker products (Van Loan and Pitsianis 1993), and the blocks
    of Monarch and block tensor-train matrices are all of this form. Singular values are split evenly.
    """
    factors: Factors = {}
    rest = list(order)
    while len(rest) > 1:
        factor, rest = rest[0], rest[1:]
        factors[factor], target, axes = _split_off(sized, target, axes, factor, set(rest), roles[factor].init_std)
    (last,) = rest
    factors[last] = _arranged(target, axes, sized.carriers_of(last))
    return {factor: factors[factor] for factor in sized.factors}


def orders(sized: SizedStructure) -> list[tuple[str, ...]]:
    """The best orders in which to split factors off, at most 3.

    The best orders are those whose bonds exceed the ranks of the blocks least: a factor taken from the middle of a
    chain first would get a bond as large as both its bonds multiplied. The order of the last two makes no difference.
    """
    different = (order for order in permutations(sized.factors) if order[-2:] == tuple(sorted(order[-2:])))
    excesses = {order: _excess(sized, order) for order in islice(different, _MAX_TRIED)}
    least = min(excesses.values())
    return [order for order, excess in excesses.items() if excess == least][:_MAX_ORDERS]


def _excess(sized: SizedStructure, order: Sequence[str]) -> float:
    """The largest ratio of bond to rank over the blocks of all splits, at least 1."""
    axes = tuple(c for c, _ in sized.sizes if set(c) & set("XY"))
    worst = 1.0
    for number, factor in enumerate(order[:-1]):
        batch, rows, columns, bonds = _groups(sized, axes, factor, set(order[number + 1 :]))
        p, q, r = (math.prod(sized.size(c) for c in group) for group in (rows, columns, bonds))
        worst, axes = max(worst, r / min(p, q)), (*batch, *bonds, *columns)
    return worst


def _groups(sized: SizedStructure, axes: Axes, factor: str, rest: set[str]) -> tuple[Axes, Axes, Axes, Axes]:
    """Indices of the batch of blocks, of rows, of columns, and those over which factor and rest are summed."""
    batch = tuple(c for c in axes if factor in c and rest & set(c))
    rows = tuple(c for c in axes if factor in c and c not in batch)
    columns = tuple(c for c in axes if factor not in c)
    bonds = tuple(c for c in sized.carriers_of(factor) if c not in axes)
    return batch, rows, columns, bonds


def _split_off(
    sized: SizedStructure, target: Tensor, axes: Axes, factor: str, rest: set[str], std: float
) -> tuple[Tensor, Tensor, Axes]:
    """One factor, and the product that the others have to give together, with its axes."""
    batch, rows, columns, bonds = _groups(sized, axes, factor, rest)
    sizes = [[sized.size(c) for c in group] for group in (batch, rows, columns, bonds)]
    b, p, q, r = (math.prod(group) for group in sizes)
    left_BPR, right_BRQ = _halves(_arranged(target, axes, (*batch, *rows, *columns)).reshape(b, p, q), r, std)
    left = left_BPR.reshape(*sizes[0], *sizes[1], *sizes[3])
    right = right_BRQ.reshape(*sizes[0], *sizes[3], *sizes[2])
    return (
        _arranged(left, (*batch, *rows, *bonds), sized.carriers_of(factor)),
        right,
        (*batch, *bonds, *columns),
    )


def _halves(blocks_BPQ: Tensor, rank: int, std: float) -> tuple[Tensor, Tensor]:
    """Split every block into U √S and √S V, cut to a rank.

    If the bond is larger than the rank of a block, the first half is random there and the second zero: with zeros on
    both sides neither could ever learn.
    """
    u_BPK, s_BK, v_BKQ = torch.linalg.svd(blocks_BPQ, full_matrices=False)
    u_BPK, s_BK, v_BKQ = u_BPK[..., :rank], s_BK[..., :rank], v_BKQ[..., :rank, :]
    root_BK = s_BK.sqrt()
    b, p, q = blocks_BPQ.shape
    left_BPR = std * torch.randn(b, p, rank, dtype=blocks_BPQ.dtype)
    right_BRQ = torch.zeros(b, rank, q, dtype=blocks_BPQ.dtype)
    used_BK = s_BK > _ZERO * s_BK.max()
    kept = s_BK.shape[-1]
    left_BPR[..., :kept] = torch.where(used_BK[:, None], u_BPK * root_BK[:, None], left_BPR[..., :kept])
    right_BRQ[:, :kept] = v_BKQ * (root_BK * used_BK)[..., None]
    return left_BPR, right_BRQ


def _arranged(tensor: Tensor, axes: Axes, wanted: Axes) -> Tensor:
    return tensor.permute([axes.index(c) for c in wanted])
