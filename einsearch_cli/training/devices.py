"""Choice of the devices on which runs train, from a user's words."""

from __future__ import annotations

import torch

from einsearch_cli.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` means CUDA if there is a CUDA device.

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
        raise DeviceError(
            f"device {name!r} is not a device: {str(error)[:100]}", remedy="use auto, cpu or cuda"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r}: runs train on cpu or cuda", remedy="use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        raise DeviceError(f"device {name!r}: {why}", remedy="use --device cpu, or install torch for CUDA")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise DeviceError(
            f"device {name!r}: this machine has {count} CUDA devices",
            remedy=f"use one of: {', '.join(f'cuda:{number}' for number in range(count))}",
        )
    return device


def use_device(name: str) -> str:
    """Select a device for this process, its streams, kernels and graphs; returns its full name.

    Raises:
        DeviceError: no such device here.
    """
    device = choose_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return str(device)


def choose_devices(words: str) -> tuple[str, ...]:
    """The devices that workers take in turn: names separated by commas; `auto` and `cuda` mean all CUDA devices.

    Raises:
        DeviceError: one that is not here, or the CPU together with others.

    >>> choose_devices("cpu")
    ('cpu',)
    """
    names = [word.strip() for word in words.split(",")]
    if names in (["auto"], ["cuda"]) and choose_device(names[0]).type == "cuda":
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    devices = tuple(dict.fromkeys(str(choose_device(name)) for name in names))
    if len(devices) > 1 and "cpu" in devices:
        raise DeviceError(
            f"device {words!r}: one study trains on the CPU or on CUDA devices", remedy="--device cpu, or cuda:0,cuda:1"
        )
    return devices
