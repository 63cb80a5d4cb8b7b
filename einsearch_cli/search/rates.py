"""Learning rates to try: the base rate times powers of 2."""

from __future__ import annotations

from typing import Final

from einsearch_cli.structures import LayerSpec

MOST_OCTAVES: Final = 4
"""The search for a rate ends at this many factors of 2 from the base rate."""


def next_octave(_: LayerSpec, octave: int, step: int) -> int | None:
    """The rate `step` factors of 2 away, as its octave; None beyond those that are tried."""
    return octave + step if abs(octave + step) <= MOST_OCTAVES else None
