"""What arithmetic and memory traffic cost on this machine: constants of the planner's cost model.

The defaults are those of one core of a server processor and of a data-centre
GPU. `einsearch bench --calibrate` measures a CPU's own and stores them per
machine, number of threads and dtype; it is never required.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.files import write_atomically
from einsearch_cli.layers.plans.processor import multiplies_by_avx512, processor_name

WIDTHS = (4, 8, 16, 32, 64, 128, 512)
"""Widths of the matrices of a product for which the time of a multiply-add is known."""


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Nanoseconds, for one dtype; only their proportions decide between plans."""

    layer_ns: float
    """One call of a layer that contracts its factors, besides its steps."""
    step_ns: float
    """One step: views, dispatch and checks."""
    matrix_ns: float
    """One matrix of a batched product."""
    mac_ns: tuple[float, ...]
    """One multiply-add of a product whose matrices are as wide as `WIDTHS`."""
    cached_weight_ns: float
    """One weight of a product, read from cache and packed."""
    memory_weight_ns: float
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
    itemsize: int = 4
    """Bytes of an element."""

    def mac_ns_at(self, width: int) -> float:
        """For the width nearest below; the narrowest known one grows in proportion.

        >>> DEFAULT_CPU.mac_ns_at(2) == 2 * DEFAULT_CPU.mac_ns_at(4)
        True
        """
        if width < WIDTHS[0]:
            return self.mac_ns[0] * WIDTHS[0] / width
        return self.mac_ns[max(number for number, known in enumerate(WIDTHS) if known <= width)]

    def of_dtype(self, dtype: torch.dtype) -> MachineProfile:
        """A guess for another dtype, from bytes and from the units that multiply it.

        Half precision keeps the constants of float32 on a CPU: some have units for it (a product of bfloat16 takes 0.22
        of the time on a Xeon with AMX), on others it is slower. Calibration tells.

        >>> DEFAULT_CPU.of_dtype(torch.float64).mac_ns_at(64) == 2 * DEFAULT_CPU.mac_ns_at(64)
        True
        """
        times = dtype.itemsize / self.itemsize
        if times == 1:
            return self
        if self.is_cpu and times < 1:
            return replace(self, itemsize=dtype.itemsize)
        least_ns = 0.0 if self.is_cpu else _PLAIN_GPU_MAC_NS
        return replace(
            self,
            mac_ns=tuple(max(least_ns, times * ns) for ns in self.mac_ns),
            **{name: times * getattr(self, name) for name in _BY_BYTES},
            itemsize=dtype.itemsize,
        )


_BY_BYTES = ("cached_weight_ns", "memory_weight_ns", "copy_ns", "run_ns")
_PLAIN_GPU_MAC_NS = 3.3e-5
"""A multiply-add of float32 or float64 on an H200: 60 TFLOP/s by its data sheet, a thirteenth of bfloat16."""
DEFAULT_CPU = MachineProfile(
    # Fitted to 1,383 times of routes on an EPYC. What it chooses takes 0.3% longer than the best route, in-sample: measured
    # on the cases of the fit (`benchmarks/routes.py`), so what it loses on others is not known.
    layer_ns=3_900, step_ns=5_100, matrix_ns=117,
    mac_ns=(0.0885, 0.0627, 0.033, 0.0269, 0.0231, 0.0231, 0.0231),
    cached_weight_ns=0.155, memory_weight_ns=0.422,
    cache_bytes=2.2e7,
    copy_ns=0.117, run_ns=4.0, source="defaults for one core of a server processor",
)  # fmt: skip
DEFAULT_AVX512 = MachineProfile(
    # Fitted to 1,058 times of routes on a Xeon, before few tokens had plans of their own: what it chose took 1% longer than
    # the best route, in-sample too. Not measured since.
    layer_ns=2_640, step_ns=10_500, matrix_ns=108,
    mac_ns=(0.395, 0.045, 0.0165, 0.0205, 0.0127, 0.0128, 0.0131),
    cached_weight_ns=0.08, memory_weight_ns=0.353,
    cache_bytes=2e6,
    copy_ns=0.299, run_ns=0.498, source="defaults for one core of a server processor with AVX-512",
)  # fmt: skip
DEFAULT_GPU = MachineProfile(
    # Fitted to bfloat16 on an NVIDIA H200 (`benchmarks/results/layers-h200.json`); narrow products are bound by memory.
    layer_ns=38_000, step_ns=26_000, matrix_ns=2,
    mac_ns=(1.8e-4, 9e-5, 4.4e-5, 2.2e-5, 1.1e-5, 5.5e-6, 2.7e-6),
    cached_weight_ns=4e-4, memory_weight_ns=5.7e-4,
    cache_bytes=3e7,
    copy_ns=1.9e-3, run_ns=5e-3, source="defaults for a data-centre GPU", is_cpu=False, itemsize=2,
)  # fmt: skip


@lru_cache(maxsize=64)
def profile_for(device_type: str, threads: int, dtype: torch.dtype) -> MachineProfile:
    """The stored profile of this machine for this many threads and this dtype; else one for float32, or the defaults."""
    if device_type != "cpu":
        return DEFAULT_GPU.of_dtype(dtype)
    found = _stored(threads, dtype)
    return found or (_stored(threads, torch.float32) or default_cpu()).of_dtype(dtype)


def default_cpu() -> MachineProfile:
    """The defaults for this processor."""
    return DEFAULT_AVX512 if multiplies_by_avx512() else DEFAULT_CPU


def _stored(threads: int, dtype: torch.dtype) -> MachineProfile | None:
    """Never required: a damaged file is as good as none."""
    try:
        stored = json.loads(profile_path(threads, dtype).read_text())
        profile = MachineProfile(**{**stored, "mac_ns": tuple(stored["mac_ns"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return profile if _is_sound(profile) and profile.itemsize == dtype.itemsize else None


def _is_sound(profile: MachineProfile) -> bool:
    constants = [value for name, value in asdict(profile).items() if name not in ("mac_ns", "source", "is_cpu")]
    are_numbers = all(type(value) in (int, float) and 0 <= value < math.inf for value in (*constants, *profile.mac_ns))
    return are_numbers and len(profile.mac_ns) == len(WIDTHS)


def store_profile(profile: MachineProfile, threads: int, dtype: torch.dtype) -> Path:
    """Write the profile where `profile_for` finds it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    path = profile_path(threads, dtype)
    write_atomically(path, json.dumps(asdict(profile), indent=2) + "\n")
    profile_for.cache_clear()
    return path


def profile_path(threads: int, dtype: torch.dtype) -> Path:
    """In the user's cache folder; the name holds processor, torch, threads and dtype: none is mistaken for another."""
    machine = (processor_name(), str(os.cpu_count()), torch.__version__)
    digest = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:12]
    return default_cache_folder() / f"machine-{digest}-{threads}-{str(dtype).removeprefix('torch.')}.json"
