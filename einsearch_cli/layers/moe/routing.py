"""The router: which experts a token goes through, with which gates."""

# Axes in this file: T tokens, I input features, E experts, K experts of a token.

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from einsearch_cli.layers.autocast import without_autocast


@dataclass(frozen=True, slots=True)
class Routing:
    """Experts and gates of every token."""

    experts_TK: Tensor
    gates_TK: Tensor
    """Positive, of sum 1 for every token; in float32, or float64 for such an input."""


@dataclass(frozen=True, slots=True)
class RoutingSums:
    """What one call of a router adds to the statistics of its layer, as sums over its tokens."""

    tokens: int
    slots_E: Tensor
    """Tokens sent to each expert."""
    probabilities_E: Tensor
    """Softmax over all logits; with gradient, as the next one."""
    squared_logsumexp: Tensor
    token_entropy: Tensor
    """Entropy of the softmax, in nats."""

    def __add__(self, other: RoutingSums) -> RoutingSums:
        return RoutingSums(
            self.tokens + other.tokens,
            self.slots_E + other.slots_E,
            self.probabilities_E + other.probabilities_E,
            self.squared_logsumexp + other.squared_logsumexp,
            self.token_entropy + other.token_entropy,
        )


class Recorder(Protocol):
    """Whoever wants to know what routers did."""

    def record(self, router: Router, sums: RoutingSums) -> None:
        """Called at every forward pass of any router."""


recorders: list[Recorder] = []
"""Those that are listening now."""


class Router(nn.Module):
    """Sends every token to the `top` experts with the largest logits.

    A linear map in_features × experts without bias, zero at the start; the gates are
    the softmax over the logits that are kept, always in float32 or wider. Potapczynski
    et al. 2024 (arXiv 2410.02117), "BTT Mixture of Experts". A token whose logits are NaN
    gets gates that are NaN.

    >>> router = Router(4, experts=3, top=2)
    >>> router(torch.ones(5, 4)).gates_TK[0]
    tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        experts: int,
        top: int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.experts = experts
        self.top = top
        self.weight = nn.Parameter(torch.zeros(experts, in_features, device=device, dtype=dtype))

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of the logits."""
        return 2 * self.weight.numel()

    def forward(self, x_TI: Tensor) -> Routing:
        """Routing of tokens, (T, I)."""
        with without_autocast(x_TI.device.type):
            wide = torch.promote_types(x_TI.dtype, torch.float32)
            # The transposed product is the faster one: experts are few.
            logits_TE = (self.weight.to(wide) @ x_TI.to(wide).T).T.contiguous()
            kept_TK, experts_TK = logits_TE.topk(self.top, dim=1)
            if recorders or torch.is_grad_enabled():
                self._record(logits_TE, experts_TK)
            return Routing(experts_TK, kept_TK.softmax(dim=1))

    def _record(self, logits_TE: Tensor, experts_TK: Tensor) -> None:
        """Give the sums to the recorders.

        A checkpointed layer is computed again in the backward pass, and has to do just the
        same there; but nothing is recorded then. Hence the sums are formed without recorders too, in either mode.
        """
        logsumexp_T = logits_TE.logsumexp(dim=1)
        probabilities_TE = (logits_TE - logsumexp_T[:, None]).exp()
        probabilities_E = probabilities_TE.sum(dim=0)
        squared_logsumexp = logsumexp_T.square().sum()
        if not recorders or torch._C._current_graph_task_id() != -1:
            return
        with torch.no_grad():
            of_tokens = (logsumexp_T - (probabilities_TE * logits_TE).sum(dim=1)).sum()
            slots_E = _counts(experts_TK, self.experts)
        sums = RoutingSums(logits_TE.shape[0], slots_E, probabilities_E, squared_logsumexp, of_tokens)
        for recorder in recorders:
            recorder.record(self, sums)

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, experts={self.experts}, top={self.top}"


def _counts(experts_TK: Tensor, experts: int) -> Tensor:
    return (experts_TK[:, :, None] == torch.arange(experts, device=experts_TK.device)).sum(dim=(0, 1))
