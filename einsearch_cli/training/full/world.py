"""The processes of a run and the device of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from einsearch_cli.errors import DeviceError


@dataclass(frozen=True)
class World:
    """One process among those that torchrun started, or the only one."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def sums(self, *values: float) -> tuple[float, ...]:
        """Values summed over all processes."""
        if self.size == 1:
            return values
        flat = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(flat)
        return tuple(flat.tolist())


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one.

    Raises:
        DeviceError: no such device here.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is no device: {str(error)[:100]}", remedy="use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r}: training runs on cpu or cuda", remedy="use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        raise DeviceError(f"device {name!r}: {why}", remedy="use --device cpu, or install torch for CUDA")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices", remedy="use a lower number"
        )
    return device


@contextmanager
def open_world(device_name: str) -> Iterator[World]:
    """The processes that torchrun started, as its environment says; without it, this process alone.

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
