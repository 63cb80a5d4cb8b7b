"""What arithmetic and memory traffic cost on this machine: constants of the planner's cost model.

The defaults are those of one core of a server processor and of a data-centre
GPU. `einsearch bench --calibrate` measures a CPU's own and stores them per
machine and number of threads; it is never required.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from einsearch_cli.files import write_atomically

WIDTHS = (4, 8, 16, 32, 64, 128, 512)
"""Widths of the matrices of a product for which the time of a multiply-add is known."""


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Nanoseconds, for float32; only their proportions decide between plans."""

    layer_ns: float
    """One call of a layer that contracts its factors, besides its steps."""
    step_ns: float
    """One step: views, dispatch and checks."""
    matrix_ns: float
    """One matrix of a batched product."""
    mac_ns: tuple[float, ...]
    """One multiply-add of a product whose matrices are as wide as `WIDTHS`."""
    cached_weight_ns: float
    """One weight of a product of a matrix, read from cache and packed."""
    memory_weight_ns: float
    """The same, read from main memory."""
    batched_cached_weight_ns: float
    """One weight of a batched product of few rows, arithmetic included."""
    batched_memory_weight_ns: float
    """The same, read from main memory."""
    cache_bytes: float
    """Weights up to here stay in cache between calls."""
    copy_ns: float
    """One element of a copy in long runs, within the second-level cache."""
    run_ns: float
    """The start of every run of a copy."""
    source: str
    """Where the numbers come from."""
    is_cpu: bool = True
    """Whether calls are cut into chunks that fit its cache."""

    def mac_ns_at(self, width: int) -> float:
        """For the width nearest below; the narrowest known one grows in proportion.

        >>> DEFAULT_CPU.mac_ns_at(2) == 2 * DEFAULT_CPU.mac_ns_at(4)
        True
        """
        if width < WIDTHS[0]:
            return self.mac_ns[0] * WIDTHS[0] / width
        return self.mac_ns[max(number for number, known in enumerate(WIDTHS) if known <= width)]


DEFAULT_CPU = MachineProfile(
    layer_ns=40_000, step_ns=14_000, matrix_ns=300,
    mac_ns=(0.12, 0.059, 0.038, 0.03, 0.026, 0.0245, 0.0243),
    cached_weight_ns=0.16, memory_weight_ns=0.45, batched_cached_weight_ns=1.5, batched_memory_weight_ns=4.8,
    cache_bytes=1.6e7,
    copy_ns=0.16, run_ns=3.0, source="defaults for one core of a server processor",
)  # fmt: skip
DEFAULT_GPU = MachineProfile(
    # Fitted to bfloat16 on an NVIDIA H200 (`benchmarks/results/layers-h200.json`); narrow products are bound by memory.
    layer_ns=38_000, step_ns=26_000, matrix_ns=2,
    mac_ns=(1.8e-4, 9e-5, 4.4e-5, 2.2e-5, 1.1e-5, 5.5e-6, 2.7e-6),
    cached_weight_ns=4e-4, memory_weight_ns=5.7e-4, batched_cached_weight_ns=4e-4, batched_memory_weight_ns=5.7e-4,
    cache_bytes=3e7,
    copy_ns=1.9e-3, run_ns=5e-3, source="defaults for a data-centre GPU", is_cpu=False,
)  # fmt: skip


@lru_cache(maxsize=64)
def profile_for(device_type: str, threads: int) -> MachineProfile:
    """The stored profile of this machine for this many threads, or the defaults."""
    if device_type != "cpu":
        return DEFAULT_GPU
    try:
        stored = json.loads(profile_path(threads).read_text())
        profile = MachineProfile(**{**stored, "mac_ns": tuple(stored["mac_ns"])})
    except (OSError, ValueError, TypeError, KeyError):  # never required: a damaged file is as good as none
        return DEFAULT_CPU
    return profile if _is_sound(profile) else DEFAULT_CPU


def _is_sound(profile: MachineProfile) -> bool:
    constants = [value for name, value in asdict(profile).items() if name not in ("mac_ns", "source", "is_cpu")]
    are_numbers = all(type(value) in (int, float) and 0 <= value < math.inf for value in (*constants, *profile.mac_ns))
    return are_numbers and len(profile.mac_ns) == len(WIDTHS)


def store_profile(profile: MachineProfile, threads: int) -> Path:
    """Write the profile where `profile_for` finds it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    path = profile_path(threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(profile), indent=2) + "\n")
    profile_for.cache_clear()
    return path


def profile_path(threads: int) -> Path:
    """In the user's cache folder; the name holds processor, torch and threads, so that none is mistaken for another."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    facts = (_processor(), str(os.cpu_count()), torch.__version__)
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return cache / "einsearch" / f"machine-{digest}-{threads}.json"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
