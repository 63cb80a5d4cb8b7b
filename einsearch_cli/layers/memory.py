"""Memory: layers that cannot be allocated are refused before anything is; freed memory is kept for the next tensor."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final

from einsearch_cli.errors import SizeError
from einsearch_cli.sizing import SizedStructure

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_RETAINED_BYTES: Final = 1 << 30
"""Blocks up to this size are reused; larger ones come from the system and go back to it."""


def retain_memory() -> bool:
    """Keep freed memory in this process for later tensors; False where the C library is not glibc.

    By default glibc returns blocks of 32 MiB and more, and asks for new ones at every step,
    whose pages are then zeroed at 0.4 ms per MiB. Meant for processes of our own: it changes
    the allocator of the whole process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _RETAINED_BYTES) and mallopt(_M_TRIM_THRESHOLD, -1)
    return bool(done)


def return_memory() -> bool:
    """Give memory that is free now back to the system, `retain_memory` or not; False where the C library is not glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return False
    return bool(trim(0))


def check_allocation(
    sized: SizedStructure, device: torch.device | str | int | None, dtype: torch.dtype, copies: int = 1
) -> None:
    """Raise SizeError if the factors of so many copies need more bytes than the device has; `meta` holds anything.

    >>> import torch
    >>> from einsearch_cli.structures import parse_structure
    >>> check_allocation(parse_structure("dense").at(2**20, 2**20), "meta", torch.float32)
    """
    import torch

    place = torch.empty(0, device=device).device
    available = memory_bytes(place)
    params = copies * sized.params
    needed = params * dtype.itemsize
    if available is not None and needed > available:
        raise SizeError(
            f"{f'{copies} × ' if copies > 1 else ''}{sized.structure} at {sized.d_in} × {sized.d_out} has {params:,} "
            f"parameters = {needed:,} bytes as {dtype}: device {place} has {available:,} bytes",
            remedy="choose smaller dimensions, a smaller rank or a narrower dtype, or build it on device='meta'",
        )


def memory_bytes(device: torch.device) -> int | None:
    """Physical memory of a device in bytes; None if it is unlimited (meta) or not known."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes() if device.type == "cpu" else None


def machine_bytes() -> int | None:
    """Physical memory of this machine; None where the system does not tell."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
