"""The standard sparse mixture: whole feed-forward networks as experts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.moe.experts import Experts
from einsearch_cli.layers.moe.grouping import combine, dispatch, group
from einsearch_cli.layers.moe.layer import MixtureLayer
from einsearch_cli.layers.other_inputs import output_for
from einsearch_cli.layers.torch_private import never_compiled
from einsearch_cli.layers.tracing import is_plain
from einsearch_cli.structures import MixtureOfExperts


class FeedForwardMoE(MixtureLayer):
    """y = Σ g_e(x) · D_e GELU(U_e x) over the experts e that a router chooses for x.

    One router serves both matrices of an expert; there is no bias. Routing, gates
    and auxiliary loss are those of `StructuredMoE`. Shazeer et al. 2017 (arXiv 1701.06538),
    Fedus et al. 2022 (arXiv 2101.03961).

    Args:
        width: of input and output.
        hidden: width between the two matrices.
        mixture: a `MixtureOfExperts` of whole networks, or text such as `ffn-moe:experts=8,top=2`.
        device: where the parameters live; `meta` allocates nothing.
        dtype: a floating dtype, torch's default one if None.

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

    @never_compiled
    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width); errors, and what tracers get, as of `StructuredMoE`."""
        other = output_for(self, x, self.up.in_features)
        if other is not None:
            return other
        if not is_plain(x):
            return self.plain_forward(x)
        tokens, routing = self._routed(x)
        groups = group(routing.experts_TK, self.mixture.experts)
        # The gates belong behind the nonlinear function, where they multiply the input of a linear map.
        ones_TK = torch.ones_like(routing.gates_TK, dtype=tokens.dtype)
        rows = self.up.cut(self.up(dispatch(self.up.padded(tokens), ones_TK, groups), groups))
        gates_R = routing.gates_TK.reshape(-1).index_select(0, groups.slot_of_row)
        hidden = functional.gelu(rows) * gates_R[:, None].to(rows.dtype)
        y = self.down.cut(combine(self.down(self.down.padded(hidden), groups), groups))
        return y.reshape(x.shape)

    def plain_forward(self, x: Tensor) -> Tensor:
        """Output of `forward` by plain operations of torch, as in `StructuredMoE`.

        >>> layer, x = FeedForwardMoE(16, 64, "ffn-moe:experts=8,top=2"), torch.randn(3, 16)
        >>> torch.allclose(layer(x), layer.plain_forward(x), atol=1e-5)
        True
        """
        tokens, routing = self._routed(x)
        gates_ET = routing.gates_of_all(self.mixture.experts).T
        rows = self.up.cut(self.up.plain_forward(self.up.padded(tokens).expand(self.mixture.experts, -1, -1)))
        hidden = functional.gelu(rows) * gates_ET[:, :, None].to(rows.dtype)
        y = self.down.cut(self.down.plain_forward(self.down.padded(hidden)).sum(dim=0))
        return y.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"width={self.up.in_features}, hidden={self.up.out_features}, mixture={str(self.mixture)!r}"
