"""The precision of a run's matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]
"""bfloat16 is autocast: products in bfloat16, weights and optimizer in float32."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes; casts of weights are not cached, so a recorded step contains them."""
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
