"""The router: which experts a token goes through, with which gates, who hears of it, and the sums that remain."""

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
    """Positive, of sum 1 for every token; in float32, or float64 for such an input."""

    def gates_of_all(self, experts: int) -> Tensor:
        """The gates of all experts, (T, E): zero for those that a token does not use."""
        gates_TE = self.gates_TK.new_zeros(self.gates_TK.shape[0], experts)
        return gates_TE.scatter(1, self.experts_TK, self.gates_TK)


@dataclass(frozen=True, slots=True)
class Decisions:
    """One call of a router, token by token."""

    shape: torch.Size
    """Shape of the tokens as the layer got them; T is their number."""
    experts_TK: Tensor
    logits_TE: Tensor
    logsumexp_T: Tensor
    squared_logsumexp_T: Tensor
    probabilities_TE: Tensor
    """Softmax over all logits."""

    @property
    def device(self) -> torch.device:
        """Where the call ran."""
        return self.logits_TE.device

    @torch.no_grad()
    def entropy_T(self) -> Tensor:
        """Entropy of the softmax, in nats, without gradient."""
        return self.logsumexp_T - (self.probabilities_TE * self.logits_TE).sum(dim=1)


class Listener(Protocol):
    """Whoever wants to know what routers did."""

    def record(self, router: Router, decisions: Decisions, *, is_replica: bool) -> None:
        """Called at every forward pass of any router.

        A replica of `nn.DataParallel` is recorded as the router that it was made from.
        """


listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
"""Listeners that are active now, in this thread."""


class Router(nn.Module):
    """Sends every token to the `top` experts with the largest logits.

    A linear map in_features × experts without bias, zero at the start; the gates are the softmax over the logits that
    are kept, always in float32 or wider. Potapczynski et al. 2024 (arXiv 2410.02117), "BTT Mixture of Experts". A token
    whose logits are NaN gets gates that are NaN.

    >>> router = Router(4, experts=3, top=2)
    >>> router(torch.ones(5, 4)).gates_TK[0]
    tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    _replica: tuple[Router, tuple[Listener, ...]] | None = None
    """For a replica: the router that it was made from, and who listened then."""

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
        """Routing of the tokens of x, (..., I), which are counted through row by row."""
        with without_autocast(x.device.type):
            wide = torch.promote_types(x.dtype, torch.float32)
            x_TI = x.reshape(-1, x.shape[-1]).to(wide)
            # The transposed product is the faster one: experts are few.
            logits_TE = (self.weight.to(wide) @ x_TI.T).T.contiguous()
            kept_TK, experts_TK = logits_TE.topk(self.top, dim=1)
            router, heard_by = self._speaks_as()
            if heard_by or torch.is_grad_enabled():
                decisions = _decisions(x.shape[:-1], logits_TE, experts_TK)
                # A checkpointed layer is computed again in the backward pass. Nothing is recorded then, but it has to
                # save just the same tensors: hence the decisions are formed without listeners too.
                if graph_task() == -1:
                    for listener in heard_by:
                        listener.record(router, decisions, is_replica=router is not self)
            return Routing(experts_TK, kept_TK.softmax(dim=1))

    def _speaks_as(self) -> tuple[Router, tuple[Listener, ...]]:
        """The router that this is, or is a replica of, and who listens to it; nobody to what is only traced."""
        here = () if is_traced() else listeners.get()
        if self._replica is None:
            return self, here
        original, before = self._replica
        return original, tuple(dict.fromkeys((*before, *here)))

    def _replicate_for_data_parallel(self) -> Router:
        """A replica runs in a thread of its own, which nobody listens in: those who listen here hear it."""
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
    """What calls of a router add to the statistics of its layer."""

    tokens: Tensor
    slots_E: Tensor
    """Tokens sent to each expert."""
    probabilities_E: Tensor
    """With gradient, as the next one."""
    squared_logsumexp: Tensor
    token_entropy: Tensor

    def plus(self, other: RoutingSums) -> RoutingSums:
        """Both together, on the device of the first."""
        return RoutingSums(*(mine + others.to(mine.device) for mine, others in zip(self, other, strict=True)))


def sums_over(decisions: Decisions, counts_T: Tensor | None) -> RoutingSums:
    """The sums over all tokens, or over those that count; a device need not be waited for."""
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
