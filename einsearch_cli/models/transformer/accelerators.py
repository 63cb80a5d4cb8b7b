"""Peak arithmetic and memory of some accelerators, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from einsearch_cli.errors import SpecError, near_name

Precision = Literal["float32", "bfloat16"]
"""float32 throughout, or matrix products in bfloat16 (autocast) with float32 weights."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device."""

    name: str
    bfloat16_flops: float
    """Peak FLOP/s of dense matrix products in bfloat16, summed in float32, without structured sparsity."""
    float32_flops: float
    """Peak FLOP/s in full float32, as torch computes by default (not TensorFloat-32)."""
    memory_bytes: float

    def peak_flops(self, precision: Precision) -> float:
        """Peak FLOP/s in this precision."""
        return self.bfloat16_flops if precision == "bfloat16" else self.float32_flops


_TERA, _GB = 1e12, 1e9

ACCELERATORS: Final = {
    key: Accelerator(name, bfloat16 * _TERA, float32 * _TERA, memory * _GB)
    for key, name, bfloat16, float32, memory in (
        ("a100", "NVIDIA A100 SXM 80 GB", 312, 19.5, 80),
        ("a100-40gb", "NVIDIA A100 SXM 40 GB", 312, 19.5, 40),
        ("h100", "NVIDIA H100 SXM", 989, 67, 80),
        ("h200", "NVIDIA H200 SXM", 989, 67, 141),
        ("l4", "NVIDIA L4", 121, 30.3, 24),
        ("l40s", "NVIDIA L40S", 362, 91.6, 48),
        ("rtx4090", "NVIDIA GeForce RTX 4090", 165, 82.6, 24),
        ("mi300x", "AMD Instinct MI300X", 1307, 163, 192),
    )
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of this name.

    Raises:
        SpecError: not in the table.

    >>> accelerator("h100").peak_flops("bfloat16")
    989000000000000.0
    >>> accelerator("h1000")
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.SpecError: no accelerator 'h1000' in the table
    try: use 'h100'; all are a100, a100-40gb, h100, h200, l4, l40s, rtx4090, mi300x
    """
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    near = near_name(name, ACCELERATORS)
    known = f"all are {', '.join(ACCELERATORS)}"
    raise SpecError(f"no accelerator {name[:40]!r} in the table", remedy=f"use {near!r}; {known}" if near else known)
