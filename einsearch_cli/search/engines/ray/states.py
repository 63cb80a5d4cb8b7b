"""States of runs on their way, in pieces, between the node that saves them and the study's folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from einsearch_cli.search.job import Pack
from einsearch_cli.search.run_folders import run_folder
from einsearch_cli.training.sealed import draft_of, place, sealed_in, tidy

PIECE_BYTES: Final = 16 << 20
"""Bytes of the pieces in which states are sent: a node with 64 tasks holds at most 4 GB of them."""
_PAUSE: Final = 9.0
"""The pause after sending states, as a multiple of the time for sending: large states take a tenth of the time at most.
"""


@dataclass(frozen=True, slots=True)
class StatePiece:
    """A part of a file of a checkpoint."""

    number: int
    """Number of the job."""
    checkpoint: str
    """Name of the checkpoint's folder."""
    file: str
    content: bytes
    left: int
    """Number of pieces of the checkpoint still to come."""


def newest_state(folder: Path) -> Path | None:
    """The last checkpoint in the folder of a run."""
    return next(reversed(sealed_in(folder)), None)


def pieces_of(number: int, checkpoint: Path) -> Iterator[StatePiece]:
    """A checkpoint in pieces; it may be removed once the first piece is made.

    Raises:
        OSError: it does not exist, or cannot be read.
    """
    with ExitStack() as stack:
        paths = sorted(checkpoint.iterdir())
        files = [stack.enter_context(path.open("rb")) for path in paths]
        counts = [max(1, -(-os.fstat(file.fileno()).st_size // PIECE_BYTES)) for file in files]
        left = sum(counts)
        for path, file, count in zip(paths, files, counts, strict=True):
            for _ in range(count):
                left -= 1
                yield StatePiece(number, checkpoint.name, path.name, file.read(PIECE_BYTES), left)


class Incoming:
    """Writes the states of the runs of a pack; each appears whole or not at all.

    Args:
        folder: the study's folder, or one of the same form on a node.
        pack: the pack whose states arrive.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self._folders = {job.number: run_folder(folder, job.trial) for job in pack}
        self._begun: dict[int, tuple[str, Path | None]] = {}
        """Checkpoints with some of their pieces, by job number, with their drafts; None if one could not be written."""

    def take(self, piece: StatePiece) -> None:
        """Write the next piece of a checkpoint.

        Raises:
            OSError: the disk is full or cannot be written. The rest of this checkpoint is skipped.
        """
        target = self._folders[piece.number] / piece.checkpoint
        name, draft = self._begun.get(piece.number, ("", None))
        if name != piece.checkpoint:  # the rest of an earlier one never comes
            self._drop(draft)
            draft = draft_of(target)
        if draft is None:
            return
        self._begun[piece.number] = (piece.checkpoint, draft)
        try:
            draft.mkdir(parents=True, exist_ok=True)
            with (draft / piece.file).open("ab") as file:
                file.write(piece.content)
                file.flush()
                os.fsync(file.fileno())
            if not piece.left:
                place(draft, target)
                tidy(target)
                del self._begun[piece.number]
        except OSError:
            self._drop(draft)
            self._begun[piece.number] = (piece.checkpoint, None)
            raise

    @staticmethod
    def _drop(draft: Path | None) -> None:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


class Outgoing:
    """Finds new states of the runs of a pack; the study knows those that exist already.

    Args:
        folder: the folder where the runs are saved.
        pack: the pack of the runs.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self._folders = {job.number: run_folder(folder, job.trial) for job in pack}
        self._sent = {number: newest_state(path) for number, path in self._folders.items()}
        self._due_s = 0.0

    def pieces(self) -> Iterator[StatePiece]:
        """The newest state of every run, unless it was sent before; large states are followed by a pause."""
        if (started_s := time.monotonic()) < self._due_s:
            return
        for number in self._folders:
            yield from self.pieces_of(number)
        ended_s = time.monotonic()
        self._due_s = ended_s + _PAUSE * (ended_s - started_s)

    def pieces_of(self, number: int) -> Iterator[StatePiece]:
        """The newest state of a run, unless it was sent before."""
        newest = newest_state(self._folders[number])
        if newest is not None and newest != self._sent[number]:
            self._sent[number] = newest
            with suppress(FileNotFoundError):  # a newer one has just replaced it
                yield from pieces_of(number, newest)

    def end(self, number: int) -> None:
        """Remove the states of a run that is over."""
        shutil.rmtree(self._folders.pop(number), ignore_errors=True)
