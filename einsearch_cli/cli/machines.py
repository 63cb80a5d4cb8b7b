"""What layers run on, as options of commands name it."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Final

from einsearch_cli.errors import SpecError

PER_CORE: Final = 4
"""Most threads or processes for each core: more of them only wait for each other, and very many end the process."""
CORE_LIMIT: Final = f"{PER_CORE * (os.cpu_count() or 1)}, {PER_CORE} for each core,"
"""The rule in words, after `a whole number from 1 to`."""
WORKER_BYTES: Final = 400 << 20
"""What a worker process takes before it trains anything: torch and its own Python."""


class Dtype(StrEnum):
    """Types of the tensors."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Device(StrEnum):
    """Where the layers run."""

    cpu = "cpu"
    cuda = "cuda"


def refuse_too_many(option: str, number: int, *, bytes_each: int = 0) -> None:
    """Complain about more threads or processes than this machine can run.

    Args:
        option: as it was given.
        number: its value.
        bytes_each: memory that each takes.

    Raises:
        SpecError: with the largest number that is taken.
    """
    cores = os.cpu_count() or 1
    if number > (most := PER_CORE * cores):
        raise SpecError(
            f"{option} {number}: this machine has {cores} core{'s' * (cores != 1)}, and takes up to {PER_CORE} for each",
            remedy=f"{option} {cores}, or at most {most}",
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if number > (most := max(1, memory // bytes_each if bytes_each else number)):
        raise SpecError(
            f"{option} {number}: each takes {bytes_each / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB",
            remedy=f"{option} {most} at most",
        )
