"""The process that works on a study, and whether it is still alive."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import pydantic

from einsearch_cli.files import write_atomically
from einsearch_cli.structures.record import Record

OWNER: Final = ".owner"
"""File in a study's folder that names the holder of its lock; a killed process leaves it behind."""


@dataclass(frozen=True, slots=True)
class Owner(Record):
    """A process on some machine."""

    pid: int
    host: str
    since: str
    """When it took the study: UTC, ISO 8601."""
    ticks: int | None = None
    """Its start in clock ticks since its machine started, which changes of the clock do not affect; None if unknown."""

    @classmethod
    def here(cls) -> Self:
        """This process as an owner."""
        return cls(os.getpid(), socket.gethostname(), utc_now(), _start_ticks(os.getpid()))

    @property
    def is_alive(self) -> bool | None:
        """Whether it still runs; None if another machine would have to be asked."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # the latter for a number that no process has
            return False
        except PermissionError:
            pass  # a process of another user
        ticks = _start_ticks(self.pid)
        return ticks is None or self.ticks is None or ticks == self.ticks

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def utc_now() -> str:
    """The clock's time, to the second.

    >>> len(utc_now())
    20
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_owner(folder: Path) -> None:
    """Record in a study's folder that this process has it."""
    write_atomically(folder / OWNER, json.dumps(Owner.here().to_json()))


def remove_owner(folder: Path) -> None:
    """Remove the record that this process has the study."""
    with suppress(OSError):
        (folder / OWNER).unlink(missing_ok=True)


def read_owner(folder: Path) -> Owner | None:
    """The living process that has the study, according to its folder; None if there is none."""
    try:
        found = pydantic.TypeAdapter(Owner).validate_json((folder / OWNER).read_text(encoding="utf-8"), strict=True)
    except (OSError, ValueError):
        return None
    return None if found.is_alive is False else found


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, None without it; the program's name, field 2, may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
