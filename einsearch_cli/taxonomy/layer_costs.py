"""Parameters and FLOPs of what a linear layer carries, with and without experts."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.structures.moe import LayerSpec, MixtureOfExperts, expert_of
from einsearch_cli.taxonomy.costs import flops_per_token


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Of one layer; bias and gains are left out."""

    params: int
    """All of them: every expert, and the router."""
    active_params: int
    """Those that a token meets: the router and the experts it is sent to."""
    flops_per_token: int
    """2 × multiply-adds of a forward pass: the router and the experts that a token is sent to."""


def layer_costs(layer: LayerSpec, d_in: int, d_out: int) -> LayerCosts:
    """Costs for a d_out × d_in matrix.

    Raises:
        SizeError: if the structure has no sizes for these dimensions.

    >>> from einsearch_cli.structures import parse_layer
    >>> layer_costs(parse_layer("btt-moe:experts=16,top=2"), 1024, 1024)
    LayerCosts(params=1064960, active_params=147456, flops_per_token=294912)
    """
    sized = expert_of(layer).at(d_in, d_out)
    flops = flops_per_token(sized)
    if not isinstance(layer, MixtureOfExperts):
        return LayerCosts(sized.params, sized.params, flops)
    router = d_in * layer.experts
    return LayerCosts(
        params=router + layer.experts * sized.params,
        active_params=router + layer.top * sized.params,
        flops_per_token=2 * router + layer.top * flops,
    )
