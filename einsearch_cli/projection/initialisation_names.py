"""Names of initialisation rules, for settings that are read before torch is loaded."""

from __future__ import annotations

from typing import Final, Literal, get_args

Initialisation = Literal["spectral", "svd", "orthogonal"]
"""The rules: `spectral` (muP, the layer's own), `svd` (nearest to a dense start), `orthogonal` (orthogonal blocks)."""

INITIALISATIONS: Final[tuple[Initialisation, ...]] = get_args(Initialisation)
