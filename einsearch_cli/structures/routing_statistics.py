"""Facts about a layer of experts that has run. This module needs no torch, so what stores the facts starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from einsearch_cli.structures.record import Record

AUXILIARY_WEIGHT: Final = 0.01
"""The factor of the auxiliary loss when it is added to the model's own: Potapczynski et al. 2024 (arXiv 2410.02117)."""


@dataclass(frozen=True, slots=True)
class RoutingStatistics(Record):
    """Statistics of the router of one layer over some tokens."""

    layer: str
    load: tuple[float, ...]
    """The share of all slots that went to each expert; the shares sum to 1."""
    token_entropy: float
    """Mean entropy in nats of a token's softmax over all experts: 0 is certain, log(experts) undecided."""
    aggregate_entropy: float
    """Entropy in nats of the mean softmax: log(experts) where all experts are used alike."""
    dropped: int
    """The number of slots that no expert got."""

    @property
    def smallest_load(self) -> float:
        """The share of the least used expert times the number of experts: 1 is balanced, 0 is an expert without tokens."""
        return min(self.load) * len(self.load)
