"""einsearch finds better linear layers.

The names below load what they need on first use, so that commands which
never train start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from einsearch_cli.layers import AuxiliaryLoss, EinsumLinear, StructuredMoE, swap_linear
    from einsearch_cli.structures import Structure, parse_structure
    from einsearch_cli.taxonomy import classify

_HOME = {
    "AuxiliaryLoss": "layers",
    "EinsumLinear": "layers",
    "StructuredMoE": "layers",
    "swap_linear": "layers",
    "Structure": "structures",
    "parse_structure": "structures",
    "classify": "taxonomy",
}

__all__ = [
    "AuxiliaryLoss",
    "EinsumLinear",
    "Structure",
    "StructuredMoE",
    "__version__",
    "classify",
    "parse_structure",
    "swap_linear",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"einsearch_cli.{_HOME[name]}"), name)
    raise AttributeError(f"module 'einsearch_cli' has no attribute {name!r}")
