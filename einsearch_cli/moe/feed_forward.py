"""The standard sparse mixture: whole feed-forward networks as experts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.moe.experts import Experts
from einsearch_cli.moe.grouping import Groups, combine, dispatch
from einsearch_cli.moe.layer import MixtureLayer
from einsearch_cli.moe.routing import Routing
from einsearch_cli.structures import MixtureOfExperts


class FeedForwardMoE(MixtureLayer):
    """A layer y = Σ g_e(x) · D_e GELU(U_e x) over the experts e that a router chooses for x.

    One router serves both matrices of an expert; there is no bias. Routing, gates and auxiliary loss are those of
    `StructuredMoE`. Shazeer et al. 2017 (arXiv 1701.06538), Fedus et al. 2022 (arXiv 2101.03961).

    Args:
        width: width of input and output.
        hidden: width between the two matrices.
        mixture: a `MixtureOfExperts` of whole networks, or text such as `ffn-moe:experts=8,top=2`.
        device: device of the parameters; `meta` allocates nothing.
        dtype: a floating-point dtype; None means torch's default.

    >>> layer = FeedForwardMoE(16, 64, "ffn-moe:experts=8,top=2")
    >>> layer(torch.ones(3, 16)).shape, layer.flops_per_token == 2 * 2 * (2 * 16 * 64) + 2 * 16 * 8
    (torch.Size([3, 16]), True)
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        mixture: MixtureOfExperts | str,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dtype = dtype or torch.get_default_dtype()
        super().__init__(width, mixture, device, dtype, of_networks=True)
        structure, experts = self.mixture.structure, self.mixture.experts
        self.up = Experts(width, hidden, structure, experts, device, dtype)
        self.down = Experts(hidden, width, structure, experts, device, dtype)

    def zero_last_factor_(self) -> None:
        """Make the output zero."""
        self.down.zero_last_factor_()

    def _chosen(self, tokens: Tensor, routing: Routing, groups: Groups) -> Tensor:
        # The gates belong behind the nonlinear function, where they multiply the input of a linear map.
        ones_TK = torch.ones_like(routing.gates_TK, dtype=tokens.dtype)
        rows = self.up.cut(self.up(dispatch(self.up.padded(tokens), ones_TK, groups), groups))
        gates_R = routing.gates_TK.reshape(-1).index_select(0, groups.slot_of_row)
        hidden = functional.gelu(rows) * gates_R[:, None].to(rows.dtype)
        return self.down.cut(combine(self.down(self.down.padded(hidden), groups), groups))

    def _all(self, tokens: Tensor, gates_ET: Tensor) -> Tensor:
        rows = self.up.cut(self.up.plain_forward(self.up.padded(tokens).expand(self.mixture.experts, -1, -1)))
        hidden = functional.gelu(rows) * gates_ET[:, :, None].to(rows.dtype)
        return self.down.cut(self.down.plain_forward(self.down.padded(hidden)).sum(dim=0))

    def extra_repr(self) -> str:
        return f"width={self.up.in_features}, hidden={self.up.out_features}, mixture={str(self.mixture)!r}"
