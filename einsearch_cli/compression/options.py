"""The error of a layer with each structure that a budget may choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from einsearch_cli.compression.budget import Option
from einsearch_cli.compression.moments import Moments
from einsearch_cli.errors import EinsearchError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.projection.projecting import project_
from einsearch_cli.structures import FAMILIES, Structure, parse_structure
from einsearch_cli.taxonomy import layer_costs

LOW_RANK = "low-rank"
_FAR = 2.5
_BLOCKS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def check_choices(texts: Sequence[str]) -> None:
    """Raise StructureError for texts that are neither a family nor a structure.

    Raises:
        StructureError: naming it.
    """
    for text in texts:
        if text not in FAMILIES:
            parse_structure(text)


def options_for(weight: Tensor, moments: Moments, texts: Sequence[str], unit: str, keep: float) -> Iterator[Option]:
    """The options of a layer that are smaller than it is now, with E‖(W − V) x‖² / E‖W x‖² of each.

    Args:
        weight: (d_out, d_in).
        moments: moments of the layer's inputs.
        texts: structures, and families whose rank or number of blocks is left open.
        unit: `params` or `flops`.
        keep: share of the dense costs that all layers together keep; members of families that are far from it are left out, but
            for the smallest, which says how low a budget can be.
    """
    d_out, d_in = weight.shape
    wanted = weight.detach().to("cpu", torch.float64)
    dense = d_in * d_out * (2 if unit == "flops" else 1)
    yield Option(None, dense, 0.0)
    for text in texts:
        if text == LOW_RANK:
            yield from _ranks(wanted, moments, unit, dense)
            continue
        costs = [(structure, _cost(structure, d_in, d_out, unit)) for structure in _members(text)]
        smaller = [(structure, cost) for structure, cost in costs if cost is not None and cost < dense]
        least = min((cost for _, cost in smaller), default=0)
        for structure, cost in smaller:
            if text not in FAMILIES or keep / _FAR < cost / dense < keep * _FAR or cost == least:
                layer = EinsumLinear(d_in, d_out, structure, bias=False)
                found = project_(layer, wanted, moments.second)
                yield Option(structure, cost, (found.output_error or 0.0) ** 2)


def _ranks(weight: Tensor, moments: Moments, unit: str, dense: int) -> Iterator[Option]:
    """All ranks by one decomposition: a rank loses the squares of the singular values beyond it."""
    d_out, d_in = weight.shape
    squares = torch.linalg.svdvals(weight @ torch.linalg.cholesky(moments.second)).square()
    left = squares.flip(0).cumsum(0).flip(0) / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    for rank in range(1, len(squares)):
        cost = rank * (d_in + d_out) * (2 if unit == "flops" else 1)
        if cost >= dense:
            return
        yield Option(parse_structure(f"{LOW_RANK}:r={rank}"), cost, left[rank].item())


def _members(text: str) -> Iterator[Structure]:
    """A structure, or the members of a family, by the open parameter."""
    family = FAMILIES.get(text)
    if family is None:
        yield parse_structure(text)
        return
    if "r" in family.parameters:
        yield from (parse_structure(f"{text}:r={rank}") for rank in _RANKS)
    elif "blocks" in family.parameters:
        yield from (parse_structure(f"{text}:blocks={blocks}") for blocks in _BLOCKS)
    else:
        yield parse_structure(text)


def _cost(structure: Structure, d_in: int, d_out: int, unit: str) -> int | None:
    """The cost of a structure; None if it does not fit the widths."""
    try:
        costs = layer_costs(structure, d_in, d_out)
    except EinsearchError:
        return None
    return costs.flops_per_token if unit == "flops" else costs.params
