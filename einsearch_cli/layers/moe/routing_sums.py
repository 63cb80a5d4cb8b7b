"""What a router decided in one call, and the sums over tokens that remain of it."""

# Axes in this file: T tokens, E experts, K experts of a token.

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


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
