"""Messages between the engine and the process that talks to Ray."""

from __future__ import annotations

from dataclasses import dataclass

from einsearch_cli.errors import EinsearchError
from einsearch_cli.search.job import JobEvent, Pack
from einsearch_cli.search.shipping import Shipment


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to a cluster, or start one on this machine."""

    address: str | None
    """`auto` or HOST:PORT; None starts a cluster."""
    workers: int | None
    """Number of cores of a cluster that is started."""
    shipment: Shipment | None
    """Everything that runs need; None if only the cores are counted."""
    gpus: int = 0
    """Number of GPUs that a task needs."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The cluster is connected."""

    tasks: int
    """The number of tasks that the cluster can run at once."""


@dataclass(frozen=True, slots=True)
class Train:
    """Train a pack on some node."""

    number: int
    pack: Pack


@dataclass(frozen=True, slots=True)
class Happened:
    """An event from the node that trains a pack."""

    number: int
    event: JobEvent


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a pack."""

    number: int
    death: str | None
    """Why its worker died; None if all its jobs have ended."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error after which the study cannot continue."""

    error: EinsearchError


Answer = Connected | Happened | Ended | Refused
