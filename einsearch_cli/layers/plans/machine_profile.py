"""Everything that depends on the machine: costs of arithmetic and memory traffic, and the limits that follow from them.

There is one default for CPUs and one for GPUs. `einsearch bench --calibrate` measures a CPU's own profile and stores it
by machine, number of threads and dtype; it is optional.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.files import write_atomically
from einsearch_cli.machine import processor_name

if TYPE_CHECKING:  # costs of networks are known without torch
    import torch

WIDTHS = (4, 8, 16, 32, 64, 128, 512)
"""Matrix widths for which the time of a multiply-add is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLengths:
    """Lengths of chunks into which a CPU cuts a call, so that the data between two products stay in its cache.

    Time of forward and backward passes as a multiple of the bare products (btt:r=4, width 4096, 4,096 tokens):

    chunks of 136   chunks of 504
    Xeon, 2 MB cache a core      1.19            1.88
    EPYC, 0.5 MB cache a core    1.42            1.27

    The factors overflow the EPYC's cache (`docs/design/log/2026-11.md`, 2026-11-25 to 2026-11-28). The defaults lose
    less where they are wrong.
    """

    elements: int = 1 << 17
    """Elements of a chunk's widest intermediate."""
    wide_matrix: int = 1 << 15
    """Elements from which on a matrix is wide: packing it for every chunk costs more."""
    wide_elements: int = 1 << 19
    """Elements of a chunk's widest intermediate when factor matrices are wide."""
    large_matrix: int = 1 << 18
    """Elements above which a matrix overflows the cache on its own."""
    large: int = 1000
    """Tokens below which packing a large matrix for every chunk costs more than 2%."""
    many_params: int = 1 << 18
    """Elements above which the factors overflow the cache, and every chunk loads them again."""
    of_many_params: int = 136
    """Fewest tokens of a chunk if factors have more than `many_params` elements."""
    few: int = 300
    """Calls with up to this many tokens keep all intermediates, which are small, in any number of chunks."""
    of_few: int = 256
    """Fewest tokens of a chunk in such a call; below, the calls cost more than the cache saves."""
    least: int = 72
    """Fewest tokens of a chunk in other calls: 72 take 0.88 to 1.02 of the time of 136 with activations of width 4096.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMajor:
    """Tokens up to which a CPU writes products token-major, by the layer's most expensive factor.

    Four matrices of 1024 × 1024 take 30 times as long feature-major for one token, 10 times for 4 and 1.7 times for 16.
    This pays for a copy between products (EPYC: `docs/design/log/2026-11.md`, 2026-11-28).
    """

    usual: int
    repeated: int
    """Limit for a factor that is repeated to many elements."""
    wide: int
    """Limit for a wide matrix, compared with which a copy between products costs little."""
    huge: int
    """Limit for a huge matrix, compared with which a copy costs almost nothing."""
    repeated_elements: int = 1 << 17
    wide_elements: int = 1 << 15
    huge_elements: int = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutCosts:
    """Nanoseconds that determine the order of features and of a factor's axes in memory; see `layout`.

    A stored factor is read in that order on every machine, so the default profile always determines it; with other
    values, saved factors would be read as other matrices.
    """

    copy_ns: float = 0.22
    """One element of a copy in long runs."""
    run_ns: float = 10.0
    """The start of every run of a copy."""
    transpose_ns: float = 1.7
    """One element of a copy that transposes single elements."""
    mac_ns: float = 0.044
    """One multiply-add of small matrix products."""
    small: int = 16
    """Matrices narrower than this leave part of the arithmetic units idle."""
    tokens: int = 240
    """Number of tokens for which the layout is chosen; the result is correct for any number."""


_TOKEN_MAJOR = {
    2: TokenMajor(usual=256, repeated=256, wide=256, huge=256),
    4: TokenMajor(usual=11, repeated=32, wide=32, huge=128),
    8: TokenMajor(usual=11, repeated=32, wide=256, huge=256),
}
"""Limits by bytes of an element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineProfile:
    """Costs and limits of one kind of device and one dtype; only the ratios of nanoseconds decide between plans."""

    layer_ns: float
    """One call of a layer that contracts its factors, without its steps."""
    step_ns: float
    """One step: views, dispatch and checks."""
    matrix_ns: float
    """One matrix of a batched product."""
    mac_ns: tuple[float, ...]
    """One multiply-add of a product, by the width of its matrices (`WIDTHS`)."""
    cached_weight_ns: float
    """One weight of a product, read from cache and packed."""
    memory_weight_ns: float
    """One weight of a product, read from main memory and packed."""
    one_row: float = 0.4
    """The part of that cost for a matrix times one vector, which packs no weights."""
    cache_bytes: float
    """Bytes of weights that stay in cache between calls."""
    copy_ns: float
    """One element of a copy in long runs, within the second-level cache."""
    run_ns: float
    """The start of every run of a copy."""
    dense_margin: float = 0.8
    """A plan must be predicted to take less than this part of the dense matrix's time to be preferred to it."""
    chunks: ChunkLengths | None = field(default_factory=ChunkLengths)
    """None for a device that processes every call at once."""
    token_major: TokenMajor | None = _TOKEN_MAJOR[4]
    """None for a device without plans for few tokens."""
    layout: LayoutCosts = field(default_factory=LayoutCosts)
    source: str
    """The source of the numbers."""
    is_cpu: bool = True
    itemsize: int = 4
    """Bytes of an element."""

    def mac_ns_at(self, width: int) -> float:
        """The cost for the nearest lower width; below the narrowest known one, it grows in proportion.

        >>> DEFAULT_CPU.mac_ns_at(2) == 2 * DEFAULT_CPU.mac_ns_at(4)
        True
        """
        if width < WIDTHS[0]:
            return self.mac_ns[0] * WIDTHS[0] / width
        return self.mac_ns[max(number for number, known in enumerate(WIDTHS) if known <= width)]

    def of_itemsize(self, itemsize: int) -> MachineProfile:
        """A guess for a dtype of `itemsize` bytes, from these and the arithmetic units for it.

        On a CPU, half precision keeps the constants of float32. Some CPUs have units for it (a product of bfloat16
        takes 0.22 of the time on a Xeon with AMX); on others it is slower. Calibration measures this.

        >>> DEFAULT_CPU.of_itemsize(8).mac_ns_at(64) == 2 * DEFAULT_CPU.mac_ns_at(64)
        True
        """
        times = itemsize / self.itemsize
        if times == 1:
            return self
        token_major = _TOKEN_MAJOR[itemsize] if self.is_cpu else None
        if self.is_cpu and times < 1:
            return replace(self, itemsize=itemsize, token_major=token_major)
        least_ns = 0.0 if self.is_cpu else _PLAIN_GPU_MAC_NS
        return replace(
            self,
            mac_ns=tuple(max(least_ns, times * ns) for ns in self.mac_ns),
            **{name: times * getattr(self, name) for name in _BY_BYTES},
            itemsize=itemsize,
            token_major=token_major,
        )


_BY_BYTES = ("cached_weight_ns", "memory_weight_ns", "copy_ns", "run_ns")
_PLAIN_GPU_MAC_NS = 3.3e-5
"""One multiply-add of float32 or float64 on an H200: 60 TFLOP/s by its data sheet, a thirteenth of bfloat16."""
DEFAULT_CPU = MachineProfile(
    # The best of 82,944 combinations of round numbers for the times of two machines (`benchmarks/constants.py`).
    layer_ns=2_000, step_ns=10_000, matrix_ns=50,
    mac_ns=(0.2, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01),
    cached_weight_ns=0.1, memory_weight_ns=0.2,
    cache_bytes=2e6,
    copy_ns=0.2, run_ns=2, source="defaults for one core of a server processor",
)  # fmt: skip
DEFAULT_GPU = MachineProfile(
    # Fitted to bfloat16 on an NVIDIA H200 (`benchmarks/results/layers-h200.json`); narrow products are bound by memory.
    layer_ns=38_000, step_ns=26_000, matrix_ns=2,
    mac_ns=(1.8e-4, 9e-5, 4.4e-5, 2.2e-5, 1.1e-5, 5.5e-6, 2.7e-6),
    cached_weight_ns=4e-4, memory_weight_ns=5.7e-4,
    cache_bytes=3e7,
    copy_ns=1.9e-3, run_ns=5e-3, chunks=None, token_major=None,
    source="defaults for a data-centre GPU", is_cpu=False, itemsize=2,
)  # fmt: skip


@lru_cache(maxsize=64)
def profile_for(device_type: str, threads: int, dtype: torch.dtype) -> MachineProfile:
    """The stored profile of this machine for these threads and this dtype; else a float32 one, or the defaults."""
    if device_type != "cpu":
        return DEFAULT_GPU.of_itemsize(dtype.itemsize)
    found = _stored(threads, _name(dtype), dtype.itemsize)
    return found or (_stored(threads, "float32", 4) or DEFAULT_CPU).of_itemsize(dtype.itemsize)


def float32_profile(device_type: str, threads: int) -> MachineProfile:
    """The profile that `profile_for` returns for float32, without torch."""
    if device_type != "cpu":
        return DEFAULT_GPU.of_itemsize(4)
    return _stored(threads, "float32", 4) or DEFAULT_CPU


def _stored(threads: int, dtype: str, itemsize: int) -> MachineProfile | None:
    """A stored profile; None if there is none, it is damaged, or it is of another version."""
    try:
        profile = _of_json(json.loads(_path(threads, dtype).read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_sound = all(type(value) in (int, float) and 0 <= value < math.inf for value in _numbers(asdict(profile)))
    return profile if is_sound and len(profile.mac_ns) == len(WIDTHS) and profile.itemsize == itemsize else None


def _of_json(stored: dict[str, Any]) -> MachineProfile:
    parts = {"chunks": ChunkLengths, "token_major": TokenMajor, "layout": LayoutCosts}
    nested = {name: kind(**stored[name]) for name, kind in parts.items()}
    return MachineProfile(**{**stored, **nested, "mac_ns": tuple(stored["mac_ns"])})


def _numbers(value: Any) -> Iterator[Any]:
    """All entries, nested ones too, except texts and truth values where these belong."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from () if name in ("source", "is_cpu") else _numbers(entry)
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value


def store_profile(profile: MachineProfile, threads: int, dtype: torch.dtype) -> Path:
    """Write the profile to the place where `profile_for` finds it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    path = profile_path(threads, dtype)
    write_atomically(path, json.dumps(asdict(profile), indent=2) + "\n")
    profile_for.cache_clear()
    return path


def profile_path(threads: int, dtype: torch.dtype) -> Path:
    """A path in the user's cache folder, whose name contains processor, torch, threads and dtype."""
    return _path(threads, _name(dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _path(threads: int, dtype: str) -> Path:
    machine = (processor_name(), str(os.cpu_count()), version("torch"))
    digest = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:12]
    return default_cache_folder() / f"machine-{digest}-{threads}-{dtype}.json"
