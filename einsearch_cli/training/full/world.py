"""The processes of a run and their devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from einsearch_cli.training.devices import choose_device


@dataclass(frozen=True)
class World:
    """One of the processes that torchrun started, or the only one."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sums(self, *values: float) -> tuple[float, ...]:
        """Sums of values over all processes."""
        if self.size == 1:
            return values
        flat = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(flat)
        return tuple(flat.tolist())


@contextmanager
def open_world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started, according to its environment; without torchrun, this process is alone.

    Raises:
        DeviceError: no such device here.
    """
    device = choose_device(device_name)
    if "TORCHELASTIC_RUN_ID" not in os.environ and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
