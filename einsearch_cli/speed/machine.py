"""Facts about the machine that a reader needs to compare figures, without names and paths."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from einsearch_cli.machine import load_average, processor_name


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Processor, system, versions and load of this machine.

    >>> machine_facts(torch.device("cpu"))["device"] == processor_name()
    True
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "load_average": load_average(),
    }
