"""The router: the experts and gates of each token, listeners to its decisions, and their sums."""

# Axes in this file: T tokens, I input features, E experts, K experts of a token.

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from einsearch_cli.layers.autocast import without_autocast
from einsearch_cli.layers.torch_private import graph_task
from einsearch_cli.layers.tracing import is_traced


@dataclass(frozen=True, slots=True)
class Routing:
    """Experts and gates of every token."""

    experts_TK: Tensor
    gates_TK: Tensor
    """Positive gates with sum 1 for every token; in float32, or float64 for such an input."""

    def gates_of_all(self, experts: int) -> Tensor:
        """The gates of all experts, (T, E): zero for those that a token does not use."""
        gates_TE = self.gates_TK.new_zeros(self.gates_TK.shape[0], experts)
        return gates_TE.scatter(1, self.experts_TK, self.gates_TK)


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of one call of a router, token by token."""

    shape: torch.Size
    """Shape of the tokens in the layer's input; T is their number."""
    experts_TK: Tensor
    logits_TE: Tensor
    logsumexp_T: Tensor
    squared_logsumexp_T: Tensor
    probabilities_TE: Tensor
    """Softmax over all logits."""

    @property
    def device(self) -> torch.device:
        """The device of the call."""
        return self.logits_TE.device

    @torch.no_grad()
    def entropy_T(self) -> Tensor:
        """Entropy of the softmax, in nats, without gradient."""
        return self.logsumexp_T - (self.probabilities_TE * self.logits_TE).sum(dim=1)


class Listener(Protocol):
    """Receives the decisions of routers."""

    def record(self, router: Router, decisions: Decisions, *, is_replica: bool) -> None:
        """Called at every forward pass of any router.

        A replica of `nn.DataParallel` is recorded as the router that it was made from.
        """


listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
"""The active listeners in this thread."""


class Router(nn.Module):
    """Sends every token to the `top` experts with the largest logits.

    The logits are a linear map in_features × experts without bias, zero at the start. The gates are the softmax over
    the logits that are kept, always in float32 or wider. Source: Potapczynski et al. 2024 (arXiv 2410.02117), "BTT
    Mixture of Experts". A token with NaN in its logits gets gates that are NaN.

    >>> router = Router(4, experts=3, top=2)
    >>> router(torch.ones(5, 4)).gates_TK[0]
    tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    _replica: tuple[Router, tuple[Listener, ...]] | None = None
    """In a replica: the router from which it was made, and its listeners at that time."""

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

    def forward(self, x: Tensor) -> Routing:
        """The routing of the tokens of x, (..., I), which are numbered row by row."""
        with without_autocast(x.device.type):
            wide = torch.promote_types(x.dtype, torch.float32)
            x_TI = x.reshape(-1, x.shape[-1]).to(wide)
            # The transposed product is faster, as there are few experts.
            logits_TE = (self.weight.to(wide) @ x_TI.T).T.contiguous()
            kept_TK, experts_TK = logits_TE.topk(self.top, dim=1)
            router, heard_by = self._speaks_as()
            if heard_by or torch.is_grad_enabled():
                decisions = _decisions(x.shape[:-1], logits_TE, experts_TK)
                # A checkpointed layer is recomputed in the backward pass. Nothing is recorded then, but it has to save
                # exactly the same tensors, so the decisions are formed without listeners too.
                if graph_task() == -1:
                    for listener in heard_by:
                        listener.record(router, decisions, is_replica=router is not self)
            return Routing(experts_TK, kept_TK.softmax(dim=1))

    def _speaks_as(self) -> tuple[Router, tuple[Listener, ...]]:
        """The router that this is, or is a replica of, with its listeners; without listeners if it is only traced."""
        here = () if is_traced() else listeners.get()
        if self._replica is None:
            return self, here
        original, before = self._replica
        return original, tuple(dict.fromkeys((*before, *here)))

    def _replicate_for_data_parallel(self) -> Router:
        """Make a replica, which runs in a separate thread without listeners; the listeners here receive its calls."""
        replica: Router = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._replica = self._replica or (self, listeners.get())
        return replica

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, experts={self.experts}, top={self.top}"


def _decisions(shape: torch.Size, logits_TE: Tensor, experts_TK: Tensor) -> Decisions:
    logsumexp_T = logits_TE.logsumexp(dim=1)
    probabilities_TE = (logits_TE - logsumexp_T[:, None]).exp()
    return Decisions(shape, experts_TK, logits_TE, logsumexp_T, logsumexp_T.square(), probabilities_TE)


class RoutingSums(NamedTuple):
    """Sums over a router's calls, for the statistics of its layer."""

    tokens: Tensor
    slots_E: Tensor
    """Number of tokens sent to each expert."""
    probabilities_E: Tensor
    """Sum of probabilities, with gradient, like the next field."""
    squared_logsumexp: Tensor
    token_entropy: Tensor

    def plus(self, other: RoutingSums) -> RoutingSums:
        """The sum of both, on the device of the first."""
        return RoutingSums(*(mine + others.to(mine.device) for mine, others in zip(self, other, strict=True)))


def sums_over(decisions: Decisions, counts_T: Tensor | None) -> RoutingSums:
    """The sums over all tokens, or over those that count, without waiting for a device."""
    probabilities_TE, squares_T = decisions.probabilities_TE, decisions.squared_logsumexp_T
    entropy_T = decisions.entropy_T()
    experts = torch.arange(probabilities_TE.shape[1], device=decisions.device)
    chosen_TE = (decisions.experts_TK[:, :, None] == experts).sum(dim=1)
    tokens = chosen_TE.new_full((), len(chosen_TE))
    if counts_T is not None:
        tokens = counts_T.sum()
        chosen_TE, probabilities_TE = (torch.where(counts_T[:, None], t, 0) for t in (chosen_TE, probabilities_TE))
        squares_T, entropy_T = (torch.where(counts_T, t, 0) for t in (squares_T, entropy_T))
    return RoutingSums(tokens, chosen_TE.sum(dim=0), probabilities_TE.sum(dim=0), squares_T.sum(), entropy_T.sum())
