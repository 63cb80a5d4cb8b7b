"""einsearch finds better linear layers.

The names below load what they need on first use, so that commands which
never train start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from einsearch_cli.layers import AuxiliaryLoss, EinsumLinear, StructuredMoE, merge, merged, swap_linear, unmerge
    from einsearch_cli.structures import Structure, parse_structure
    from einsearch_cli.taxonomy import classify
    from einsearch_cli.training.groups import optimizer_groups

_HOME = {
    "AuxiliaryLoss": "layers",
    "EinsumLinear": "layers",
    "StructuredMoE": "layers",
    "merge": "layers",
    "merged": "layers",
    "optimizer_groups": "training.groups",
    "swap_linear": "layers",
    "unmerge": "layers",
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
    "merge",
    "merged",
    "optimizer_groups",
    "parse_structure",
    "swap_linear",
    "unmerge",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"einsearch_cli.{_HOME[name]}"), name)
    raise AttributeError(f"module 'einsearch_cli' has no attribute {name!r}")
