"""Initialisation rules of a layer in addition to its own spectral muP one."""

from __future__ import annotations

import math

import torch
from torch import nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.moe.experts import Experts
from einsearch_cli.moe.layer import StructuredMoE
from einsearch_cli.projection.factor_values import set_factors_
from einsearch_cli.projection.initialisation_names import INITIALISATIONS, Initialisation
from einsearch_cli.projection.projecting import nearest_factors

_CLOSED = 2
"""The most factors for which the nearest matrix of the structure is found by decompositions alone."""


@torch.no_grad()
def initialise_(layer: EinsumLinear, rule: Initialisation, std: float | None = None) -> None:
    """Draw the factors of a layer by a rule; the bias becomes zero.

    - `spectral` is `reset_parameters`: Qiu et al. 2024 (arXiv 2406.06248).
    - `svd`: a dense matrix is drawn, normal with deviation `std`, and the factors are those of the nearest
      matrix of the structure. A low-rank layer gets U √S and √S V of the truncated singular value decomposition, the
      rule of Wei et al. 2024 (arXiv 2406.16450) for LowRank; Monarch and BTT get the same for every block.
    - `orthogonal`: every matrix (fan_in, fan_out) of a factor has orthonormal rows or columns, whichever are
      fewer: the rule of Wei et al. 2024 for BlockShuffle and BlockDense.

    The layer's matrix is exactly the product of these factors: its gain starts with the value that undoes their rms
    caps.

    Args:
        layer: the layer whose factors are drawn.
        rule: one of `INITIALISATIONS`.
        std: deviation of the dense start of `svd`; None means that of the spectral muP start of a
            dense layer, sqrt(min(in, out)) / in.

    Raises:
        LayerError: for a layer that is not a plain `EinsumLinear`, an unknown rule, a `std` without `svd`, and `svd` for a
            structure whose nearest matrix only a search finds: more than two factors, or padding.

    >>> layer = EinsumLinear(64, 64, "block-shuffle:blocks=4", bias=False)
    >>> initialise_(layer, "orthogonal")
    >>> w = layer.to_dense()          # a product of square orthogonal blocks is orthogonal
    >>> torch.allclose(w @ w.T, torch.eye(64), atol=1e-5)
    True
    """
    if rule not in INITIALISATIONS:
        raise LayerError(f"initialisation {rule!r}: there are {', '.join(INITIALISATIONS)}", remedy="use one of these")
    if std is not None and rule != "svd":
        raise LayerError(
            f"std={std:g} with the initialisation {rule}: only svd draws a dense matrix of that deviation",
            remedy="leave std out, or use svd",
        )
    layer.reset_parameters()
    if rule == "svd":
        own_std = math.sqrt(min(layer.in_features, layer.out_features)) / layer.in_features
        _nearest_to_dense(layer, own_std if std is None else std)
    elif rule == "orthogonal":
        for role in layer.plan.roles:
            for block in layer.factors[role.factor]:
                nn.init.orthogonal_(block)
        set_factors_(layer, {name: layer.factor_tensor(name) for name in layer.factors})


@torch.no_grad()
def start_at_unit_rms_(network: nn.Module) -> None:
    """Set the gains of freshly drawn layers so that their outputs start as large as a dense layer's.

    Spectral muP draws a factor for its own fan-in and fan-out, so a bottleneck or a bond makes the output smaller: a
    low-rank layer of rank r maps inputs of rms 1 to outputs of rms sqrt(r / width). Norms and residual streams make up
    for that. A network without them learns more slowly, and more so the wider it is. The rms of the output is the
    product of sqrt(min(1, fan_out / fan_in)) over the factors, times 1 / sqrt(top) for the mean of `top` experts.

    >>> layer = EinsumLinear(256, 256, "low-rank:r=16")
    >>> start_at_unit_rms_(layer)
    >>> layer.gain.item()
    4.0
    """
    for module in network.modules():
        if isinstance(module, StructuredMoE):
            module.experts.gain.fill_(_shrinkage(module.experts) * math.sqrt(module.mixture.top))
        elif isinstance(module, EinsumLinear):
            module.gain.fill_(_shrinkage(module))


def _shrinkage(layer: EinsumLinear | Experts) -> float:
    """The ratio of a dense layer's output size to that of the layer."""
    factors = math.prod(max(1.0, role.fan_in / role.fan_out) for role in layer.plan.roles)
    return math.sqrt(factors / max(1.0, layer.in_features / layer.out_features))


def _nearest_to_dense(layer: EinsumLinear, std: float) -> None:
    sized = layer.sized
    if len(sized.factors) > _CLOSED or sized.padding:
        reason = sized.padding or f"{layer.structure} has {len(sized.factors)} factors"
        raise LayerError(
            f"initialisation svd: {reason}, and the nearest matrix has a closed form for two factors without padding",
            remedy="use spectral or orthogonal",
        )
    weight = torch.empty(layer.out_features, layer.in_features, device=layer.gain.device, dtype=layer.gain.dtype)
    nn.init.normal_(weight, std=std)
    factors, _ = nearest_factors(layer.sized.ordered(layer.order), weight.to("cpu", torch.float64))
    set_factors_(layer, factors)
