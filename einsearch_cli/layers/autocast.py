"""The effect of autocast on the operands of matrix products, for layers that compute these themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context that turns autocast off; device types without autocast, such as meta, need nothing."""
    return torch.autocast(kind, enabled=False) if _is_available(kind) else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts the operands of a matrix product; None without autocast."""
    kind = x.device.type
    if not (_is_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


def _is_available(kind: str) -> bool:
    """Whether a device type has autocast; torch's own question breaks the graph of compilers up to torch 2.11."""
    return kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)


def cast_dtype(tensor: Tensor, autocast: torch.dtype | None) -> torch.dtype:
    """The dtype in which a tensor is multiplied: that of autocast, except for float64."""
    return tensor.dtype if autocast is None or tensor.dtype is torch.float64 else autocast


def cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> list[Any]:
    """The tensors, cast as autocast multiplies them."""
    if dtype is None:
        return list(tensors)
    return [tensor if tensor is None else tensor.to(cast_dtype(tensor, dtype)) for tensor in tensors]
