"""The layers that are measured where nobody names others."""

from __future__ import annotations

from typing import Final

MARKET: Final = (
    "dense",
    "low-rank",
    "low-rank:r=d/4",
    "kronecker",
    "tt:r=4",
    "monarch",
    "btt:r=4",
    "block-shuffle:blocks=4",
    "block-dense:blocks=4,r=d/4",
    "(0.5|0.25|0.25|0.25|0.5|0.25|0)",
    "btt:n=3",
)
"""One of each family that people use, cheap and dear ones, and two that no library has."""
