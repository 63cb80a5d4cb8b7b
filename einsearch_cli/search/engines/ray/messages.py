"""What the engine and the process that talks to Ray say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.errors import EinsearchError
from einsearch_cli.search.job import JobEvent, Pack
from einsearch_cli.search.shipping import Shipment


@dataclass(frozen=True, slots=True)
class Connect:
    """Reach a cluster, or start one on this machine."""

    address: str | None
    """`auto` or HOST:PORT; None starts one."""
    workers: int | None
    """Cores of one that is started."""
    shipment: Shipment | None
    """What runs need; None where only the cores are counted."""
    gpus: int = 0
    """Number of GPUs that a task needs."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The cluster is there."""

    tasks: int
    """Number of tasks that the cluster has room for at once."""


@dataclass(frozen=True, slots=True)
class Train:
    """Train a pack on some node."""

    number: int
    pack: Pack


@dataclass(frozen=True, slots=True)
class Happened:
    """A node tells of a pack."""

    number: int
    event: JobEvent


@dataclass(frozen=True, slots=True)
class Ended:
    """A pack is over."""

    number: int
    death: str | None
    """Why its worker died; None if all its jobs have ended."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The study cannot go on."""

    error: EinsearchError


Answer = Connected | Happened | Ended | Refused
