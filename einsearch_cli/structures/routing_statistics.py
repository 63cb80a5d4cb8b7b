"""What is known of a layer of experts once it has run; without torch, so that what stores it starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from einsearch_cli.structures.record import Record

AUXILIARY_WEIGHT: Final = 0.01
"""Factor of the auxiliary loss when it is added to the model's own: Potapczynski et al. 2024 (arXiv 2410.02117)."""


@dataclass(frozen=True, slots=True)
class RoutingStatistics(Record):
    """What the router of one layer did with some tokens."""

    layer: str
    load: tuple[float, ...]
    """Share of all slots that went to each expert; sums to 1."""
    token_entropy: float
    """Mean entropy of a token's softmax over all experts, in nats: 0 is certain, log(experts) undecided."""
    aggregate_entropy: float
    """Entropy of the mean softmax, in nats: log(experts) where all experts are used alike."""
    dropped: int
    """Slots that no expert got."""

    @property
    def smallest_load(self) -> float:
        """The least used expert's share, times the number of experts: 1 is balanced, 0 is an expert without tokens."""
        return min(self.load) * len(self.load)
