"""`SelfGuidedLinear`: a structured layer, and a dense one that starts equal to it and guides it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.inputs import output_for

GUIDE = "guide"
"""Name of the dense matrix among the parameters of a guided layer."""

_Layer = TypeVar("_Layer", bound=EinsumLinear)


class SelfGuidedLinear(EinsumLinear):
    """A layer o = a · W x + (1 − a) · (structured x) + b, whose dense guide W starts as the product of the factors.

    Self-guided training follows Wei et al. 2024 (arXiv 2406.16450). The weight a is a tensor, not a Python number, so
    that compiled code works for every value. Parameters keep their names in the structured layer; `guide`, of shape
    (out_features, in_features), is added. It starts as `to_dense()`, in the structured layer's order of features, so
    the output does not depend on a.

    Args:
        layer: the structured layer; the parameters are shared with it, not copied.
        guide: the guide of another layer with the same factors, to be shared; None makes a new one.

    >>> layer = EinsumLinear(16, 16, "btt:r=2")
    >>> guided, x = SelfGuidedLinear(layer), torch.ones(16)
    >>> guided.set_weight(0.3)
    >>> torch.allclose(guided(x), layer(x), atol=1e-5)
    True
    >>> [name for name, _ in guided.named_parameters()]
    ['gain', 'bias', 'guide', 'factors.A', 'factors.B']
    """

    guide: Tensor
    mix: Tensor
    """The mixing weight a, a scalar; not part of the state, as it follows from the step."""
    is_evaluated: bool
    """Whether the guide is used; without it the layer computes as the structured one, at its cost."""

    def __init__(self, layer: EinsumLinear, guide: nn.Parameter | None = None) -> None:
        _share(layer, self)
        own = guide is None
        if guide is None:
            guide = nn.Parameter(
                torch.empty(self.out_features, self.in_features, device=self.gain.device, dtype=self.gain.dtype)
            )
        self.register_parameter(GUIDE, guide)
        self.factors = (
            self.factors
        )  # behind the guide, since optimizers of old checkpoints count the parameters in this order
        self.register_buffer("mix", torch.ones((), device=guide.device, dtype=guide.dtype), persistent=False)
        self.is_evaluated = True
        if own:
            self.start_guide_()

    @property
    def structured(self) -> EinsumLinear:
        """The structured layer alone, as a plain `EinsumLinear` that shares the parameters."""
        plain = _share(self, EinsumLinear.__new__(EinsumLinear))
        for state in (plain._parameters, plain._buffers):
            state.pop(GUIDE, None)
            state.pop("mix", None)
        plain._non_persistent_buffers_set.discard("mix")
        del plain.__dict__["is_evaluated"]
        return plain

    def set_weight(self, weight: float, evaluate: bool = True) -> None:
        """Give the guide the weight a; with `evaluate` false it is skipped, as in some steps of the stochastic mode."""
        self.mix.fill_(weight)
        self.is_evaluated = evaluate

    @torch.no_grad()
    def start_guide_(self) -> None:
        """Make the guide equal to the product of the factors, with their scale."""
        self.guide.copy_(super().to_dense())

    def reset_parameters(self) -> None:
        """Draw new factors; the guide becomes their product."""
        super().reset_parameters()
        self.start_guide_()

    def zero_last_factor_(self) -> None:
        """Make W zero, and the guide with it."""
        super().zero_last_factor_()
        self.start_guide_()

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Learning-rate multiplier of every factor, as in `EinsumLinear`, and of the guide: 1, as it is a dense layer.

        >>> SelfGuidedLinear(EinsumLinear(64, 64, "btt:r=2")).learning_rate_multipliers()
        {'factors.A': 4.0, 'factors.B': 2.0, 'guide': 1.0}
        """
        return {**super().learning_rate_multipliers(), GUIDE: 1.0}

    @property
    def guide_flops_per_token(self) -> int:
        """2 × multiply-adds of the guide per token, when it is evaluated."""
        return 2 * self.in_features * self.out_features

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token in the present state: with the guide if it is evaluated."""
        return self.plan.flops_per_token + (self.guide_flops_per_token if self.is_evaluated else 0)

    def to_dense(self) -> Tensor:
        """The present matrix of the layer: a · W + (1 − a) · product of the factors."""
        product = super().to_dense()
        return torch.lerp(product, self.guide, self.mix) if self.is_evaluated else product

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        other = output_for(self, x, self.in_features)
        if other is not None:
            return other
        structured = super().forward(x)
        if not self.is_evaluated:
            return structured
        # Both terms have the bias, which therefore counts once: a · b + (1 − a) · b.
        dense = functional.linear(x, self.guide, self.bias)
        return torch.lerp(structured, dense, self.mix.to(structured.dtype))


def _share(source: EinsumLinear, target: _Layer) -> _Layer:
    """Share everything of one layer, including parameters and hooks, with a bare layer."""
    nn.Module.__init__(target)
    state: dict[str, Any] = source.__getstate__()
    for name in ("_parameters", "_buffers", "_modules"):
        state[name] = type(state[name])(state[name])
    state["_non_persistent_buffers_set"] = set(state["_non_persistent_buffers_set"])
    target.__setstate__(state)
    return target
