"""The machine of a process: its processor, its memory, and the handling of freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_RETAINED_BYTES: Final = 1 << 30
"""Blocks up to this size are reused; larger ones come from the system and return to it."""
_PROCESSORS = Path("/proc/cpuinfo")


def retain_memory() -> bool:
    """Keep freed memory in this process for later tensors; False if the C library is not glibc.

    By default, glibc returns blocks of 32 MiB and more, and requests new ones at every step, whose pages are then
    zeroed at 0.4 ms per MiB. This changes the allocator of the whole process, so it is meant for our own processes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _RETAINED_BYTES) and mallopt(_M_TRIM_THRESHOLD, -1)
    return bool(done)


def return_memory() -> bool:
    """Return memory that is free now to the system, even after `retain_memory`; False if the C library is not glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return False
    return bool(trim(0))


def memory_bytes(device: torch.device) -> int | None:
    """Physical memory of a device in bytes; None if it is unlimited (meta) or not known."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_bytes() if device.type == "cpu" else None


def machine_bytes() -> int | None:
    """Physical memory of this machine; None if the system does not say."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def load_average() -> float | None:
    """Processes that ran or waited over the last minute; None if the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def other_load() -> float:
    """Processes of others that ran or waited over the last minute, if this process is one of those counted.

    0 if the system does not say. Just after work of one's own that has ended, it is still counted.
    """
    return max(0.0, (load_average() or 0.0) - 1)


@lru_cache
def processor_name() -> str:
    """Model of the processor, if the system says; no decision depends on it."""
    try:
        with _PROCESSORS.open(encoding="utf-8", errors="replace") as lines:
            named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named or platform.processor() or platform.machine()
