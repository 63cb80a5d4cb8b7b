"""Layers of experts, of which each token uses a few; in `StructuredMoE`, an expert is one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.inputs import check_dtype, check_input, check_parameters, output_for
from einsearch_cli.layers.learning_rates import StructuredLayer
from einsearch_cli.layers.torch_private import never_compiled
from einsearch_cli.layers.tracing import is_plain
from einsearch_cli.moe.experts import Experts, NoWeight
from einsearch_cli.moe.grouping import Groups, combine, dispatch, group
from einsearch_cli.moe.routing import Router, Routing
from einsearch_cli.structures import FeatureOrder, MixtureOfExperts, parse_layer


class MixtureLayer(NoWeight, StructuredLayer):
    """A router with its experts: the common part of all such layers, whatever an expert is."""

    def __init__(
        self,
        width: int,
        mixture: MixtureOfExperts | str,
        device: torch.device | str | int | None,
        dtype: torch.dtype,
        *,
        of_networks: bool,
    ) -> None:
        super().__init__()
        self.mixture = _checked_mixture(mixture, dtype, of_networks)
        self.router = Router(width, self.mixture.experts, self.mixture.top, device, dtype)

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Adam learning rates of factors and router relative to the muP rate of a dense layer.

        A factor has the rate of the same factor in an `EinsumLinear`, as fan-in is that of one expert; the router is a
        dense matrix. Gains and bias are not listed, as they train at the base rate itself. Source: Potapczynski et al.
        2024 (arXiv 2410.02117).

        >>> StructuredMoE(64, 64, "btt-moe:r=2,experts=8,top=2").learning_rate_multipliers()
        {'experts.factors.A': 4.0, 'experts.factors.B': 2.0, 'router.weight': 1.0}
        """
        factors = {
            f"{part}.{name}": value
            for part, experts in self._experts().items()
            for name, value in experts.learning_rate_multipliers().items()
        }
        return {**factors, "router.weight": 1.0}

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token: the router and `top` experts of however many."""
        of_expert = sum(experts.plan.flops_per_token for experts in self._experts().values())
        return self.router.flops_per_token + self.mixture.top * of_expert

    @never_compiled
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features).

        Tracers, exported programs, forward-mode derivatives and transforms of torch.func cannot follow the sorting of
        tokens. They use `plain_forward`, at the cost of all experts.

        Raises:
            LayerError: for another input width, dtype or device, or an input that is not floating-point.
        """
        other = output_for(self, x, self.router.weight.shape[1])
        if other is not None:
            return other
        if not is_plain(x):
            return self.plain_forward(x)
        tokens, routing = self._routed(x)
        y = self._chosen(tokens, routing, group(routing.experts_TK, self.mixture.experts))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def plain_forward(self, x: Tensor) -> Tensor:
        """The output of `forward` by plain operations of torch, on any device: every token goes through all experts.

        Gates are zero for experts that a token does not use. Values influence only values, so this can be traced and
        transformed.

        >>> layer, x = StructuredMoE(16, 8, "low-rank-moe:r=4,experts=4,top=2"), torch.randn(5, 16)
        >>> torch.allclose(layer(x), layer.plain_forward(x), atol=1e-5)
        True
        """
        tokens, routing = self._routed(x)
        y = self._all(tokens, routing.gates_of_all(self.mixture.experts).T)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _chosen(self, tokens: Tensor, routing: Routing, groups: Groups) -> Tensor:
        """Output of every token by its own experts."""
        raise NotImplementedError

    def _all(self, tokens: Tensor, gates_ET: Tensor) -> Tensor:
        """Output of every token by all experts, weighted by gates that may be zero."""
        raise NotImplementedError

    def _experts(self) -> dict[str, Experts]:
        return {name: child for name, child in self.named_children() if isinstance(child, Experts)}

    def _routed(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Tokens (T, width) and their routing; LayerError for an input (..., width) that cannot be used."""
        width = self.router.weight.shape[1]
        check_input(x, width, self.router.weight.dtype)
        check_parameters(x, self)
        return x.reshape(-1, width), self.router(x)


class StructuredMoE(MixtureLayer):
    """A layer y = Σ g_e(x) W_e x + b over the experts e that a router chooses for x.

    Every W_e is a matrix of the same structure; the gates g are the softmax over the `top` largest logits of the
    router. Only the chosen experts run, and no token is dropped. Input (..., in_features), output (..., out_features),
    for any leading shape; every entry of the leading shape is a token. Source: Potapczynski et al. 2024 (arXiv
    2410.02117), "BTT Mixture of Experts".

    In training, add the auxiliary loss, which balances the load: see `AuxiliaryLoss`. With `top` = 1 the gate is 1 for
    any logits, so that loss alone trains the router.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        mixture: a `MixtureOfExperts`, or text such as `btt-moe:experts=16,top=2`.
        bias: whether to add a learnable bias, zero at the start, shared by all experts.
        device: device of the parameters; `meta` allocates nothing.
        dtype: a floating-point dtype; None means torch's default.
        order: order of the features of all experts, as in `EinsumLinear`.

    Raises:
        StructureError: if the text is not a mixture of experts.
        SizeError: if the structure does not fit the widths, or the parameters do not fit the memory of the device.
        LayerError: if the dtype is not a floating-point one, or the experts are whole networks.

    >>> layer = StructuredMoE(64, 64, "btt-moe:experts=4,top=2")
    >>> layer(torch.ones(2, 3, 64)).shape
    torch.Size([2, 3, 64])
    >>> {name: tuple(p.shape) for name, p in layer.named_parameters()}  # doctest: +NORMALIZE_WHITESPACE
    {'bias': (64,), 'router.weight': (4, 64),
     'experts.gain': (4,), 'experts.factors.A': (4, 8, 8, 8), 'experts.factors.B': (4, 8, 8, 8)}
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mixture: MixtureOfExperts | str,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        order: FeatureOrder | str | None = None,
    ) -> None:
        dtype = dtype or torch.get_default_dtype()
        super().__init__(in_features, mixture, device, dtype, of_networks=False)
        self.in_features = in_features
        self.out_features = out_features
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        one, count = self.mixture.structure, self.mixture.experts
        self.experts = Experts(in_features, out_features, one, count, device, dtype, order)

    def zero_last_factor_(self) -> None:
        """Make every expert zero through its last factor, for the last layer of a residual block."""
        self.experts.zero_last_factor_()

    def _chosen(self, tokens: Tensor, routing: Routing, groups: Groups) -> Tensor:
        rows = dispatch(self.experts.padded(tokens), routing.gates_TK.to(tokens.dtype), groups)
        return self._with_bias(combine(self.experts(rows, groups), groups))

    def _all(self, tokens: Tensor, gates_ET: Tensor) -> Tensor:
        rows_ETF = gates_ET.to(tokens.dtype)[:, :, None] * self.experts.padded(tokens)
        return self._with_bias(self.experts.plain_forward(rows_ETF).sum(dim=0))

    def extra_repr(self) -> str:
        """The arguments that made the layer, as `nn.Linear` shows them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"mixture={str(self.mixture)!r}, bias={self.bias is not None}"
        )

    def _with_bias(self, y: Tensor) -> Tensor:
        y = self.experts.cut(y)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def _checked_mixture(mixture: MixtureOfExperts | str, dtype: torch.dtype, of_networks: bool) -> MixtureOfExperts:
    """The mixture that a text names; it must have single matrices, or whole networks, as experts."""
    check_dtype(dtype)
    found = parse_layer(mixture) if isinstance(mixture, str) else mixture
    if not isinstance(found, MixtureOfExperts):
        raise LayerError(
            f"{found} has no experts: a StructuredMoE needs a mixture of experts",
            remedy="use EinsumLinear, or write for example btt-moe:experts=16,top=2",
        )
    if found.feed_forward != of_networks:
        kinds = ("single matrices, as of StructuredMoE", "whole networks, as of FeedForwardMoE")
        raise LayerError(
            f"{found} has experts that are {kinds[found.feed_forward]}: this layer's are {kinds[of_networks]}",
            remedy=f"write {'ffn' if of_networks else 'dense'}-moe:experts={found.experts},top={found.top}",
        )
    return found
