"""What autocast does to the operands of a matrix product, for layers that compute them themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Turns autocast off; device types that have none, such as meta, need nothing."""
    return torch.autocast(kind, enabled=False) if _is_available(kind) else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts the operands of a matrix product; None outside of it."""
    kind = x.device.type
    if not (_is_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


def _is_available(kind: str) -> bool:
    """Compilers of torch up to 2.11 break their graph at its own question."""
    return kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)


def cast_dtype(tensor: Tensor, autocast: torch.dtype | None) -> torch.dtype:
    """The dtype in which a tensor is multiplied: that of autocast, which leaves float64 alone."""
    return tensor.dtype if autocast is None or tensor.dtype is torch.float64 else autocast


def cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> list[Any]:
    """The tensors as autocast multiplies them."""
    if dtype is None:
        return list(tensors)
    return [tensor if tensor is None else tensor.to(cast_dtype(tensor, dtype)) for tensor in tensors]
