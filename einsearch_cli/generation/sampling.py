"""Choosing the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from einsearch_cli.errors import RunFailedError, SpecError

if TYPE_CHECKING:  # numbers are checked before torch is loaded
    from torch import Tensor

# Axes in this file: B row, V vocabulary (sorted, or a part of it).


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn: first temperature, then top-k, then top-p.

    Raises:
        SpecError: a number outside its range.

    >>> import torch
    >>> logits_BV = torch.tensor([[0.0, 3.0, 1.0]])
    >>> Sampling(temperature=0).choose(logits_BV, torch.tensor([0.9])).tolist()
    [1]
    """

    temperature: float = 1.0
    """Divisor of the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Number of the likeliest tokens that can be drawn."""
    top_p: float | None = None
    """Probability that the likeliest tokens must reach together; no others can be drawn.

    Nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SpecError(
                f"temperature {self.temperature:g}: it has to be 0 or more, and finite",
                remedy="give 0 for the likeliest token, 1 for the model's own probabilities",
            )
        if self.top_k is not None and self.top_k < 1:
            raise SpecError(f"top-k {self.top_k}: at least 1 token has to remain", remedy="give 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SpecError(
                f"top-p {self.top_p:g}: it is a probability, above 0 and at most 1", remedy="give for example 0.9"
            )

    def choose(self, logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
        """One token per row, (B,), from numbers in [0, 1); RunFailedError for a logit that is not finite."""
        import torch

        if not torch.isfinite(logits_BV).all():
            raise RunFailedError(
                "the model's logits are not finite: its weights are damaged, or its training diverged",
                remedy="use an earlier checkpoint",
            )
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        probabilities_BV, tokens_BV = self._candidates(logits_BV.double())
        cumulative_BV = probabilities_BV.cumsum(-1)
        drawn_B1 = uniforms_B.double()[:, None] * cumulative_BV[:, -1:]
        places_B1 = torch.searchsorted(cumulative_BV, drawn_B1, right=True).clamp(max=cumulative_BV.shape[-1] - 1)
        return places_B1[:, 0] if tokens_BV is None else tokens_BV.gather(-1, places_B1)[:, 0]

    def _candidates(self, logits_BV: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities up to a factor, and their tokens, likeliest first; None for the tokens if nothing was sorted."""
        if self.top_k is None and self.top_p is None:
            return (logits_BV / self.temperature).softmax(-1), None
        size = logits_BV.shape[-1]
        kept_BV, tokens_BV = logits_BV.topk(min(self.top_k or size, size))
        probabilities_BV = (kept_BV / self.temperature).softmax(-1)
        if self.top_p is not None:
            before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
            probabilities_BV = probabilities_BV.where(before_BV < self.top_p, 0.0)
        return probabilities_BV, tokens_BV
