"""A plug-in: the teacher task, whose runs of one width misbehave while their network is built."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path

import torch

from einsearch_cli.data import Batch
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import register
from einsearch_cli.tasks.teacher import TeacherSettings, TeacherTask


class UnrulySettings(TeacherSettings):
    """Settings of the `unruly` task."""

    act: str = "behave"
    """The kind of misbehaviour."""
    unruly_width: int = 24
    """The width that misbehaves."""
    folder: str = ""
    """Folder for files that record what has happened."""


def hang(_: Path) -> None:
    """Do nothing for an hour."""
    time.sleep(3600)


def allocate(_: Path) -> None:
    """Ask for 4 GB."""
    torch.zeros(1 << 30)


def print_much(_: Path) -> None:
    """Print 1 GB, then fail."""
    sys.stdout.write("the first words\n")
    line = "x" * 1023 + "\n"
    for _ in range(1 << 20):
        sys.stdout.write(line)
    sys.stdout.write("the last words\n")
    sys.stdout.flush()
    raise ValueError("no more to say")


def start_another(folder: Path) -> None:
    """Start a program that outlives its parent, then hang."""
    child = subprocess.Popen(["sleep", "3600"])
    (folder / "child").write_text(str(child.pid))
    hang(folder)


def die(_: Path) -> None:
    """End as if the system had killed the process for lack of memory."""
    print("dying", flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(folder: Path) -> None:
    """Be killed, but only the first time."""
    if not (folder / "died").exists():
        (folder / "died").touch()
        die(folder)


def behave(_: Path) -> None:
    """Behave well."""


def poison(_: Path) -> None:
    """Do nothing while the network is built."""


ACTS = {act.__name__: act for act in (behave, hang, allocate, print_much, start_another, die, die_once, poison)}


class Unruly(TeacherTask):
    """The teacher task, except at one width; `poison` affects the data of two seeds."""

    name = "unruly"
    settings_type = UnrulySettings
    settings: UnrulySettings

    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        if width == self.settings.unruly_width and parent_process() is not None:  # not where a study is planned
            ACTS[self.settings.act](Path(self.settings.folder))
        return super().build_model(structure, width)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Seed 1 has a NaN in its fifth batch, seed 2 an infinity in its first."""
        for number, batch in enumerate(super().batches(seed)):
            if self.settings.act == "poison" and (seed, number) in ((1, 4), (2, 0)):
                yield Batch(batch.inputs, torch.full_like(batch.targets, float("nan" if seed == 1 else "inf")))
            else:
                yield batch


register(Unruly)
