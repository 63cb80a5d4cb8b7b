"""The states of runs on their way between a node, which saves them, and the folder of the study: each goes in pieces."""

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
"""Size of the pieces in which states are sent: a node with 64 tasks holds at most 4 GB of them."""
_PAUSE: Final = 9.0
"""The pause after states were sent, as a multiple of the time that they took: large ones take a tenth of the time at most."""


@dataclass(frozen=True, slots=True)
class StatePiece:
    """A part of a file of a checkpoint."""

    number: int
    """Number of the job."""
    checkpoint: str
    """Name of its folder."""
    file: str
    content: bytes
    left: int
    """Pieces of the checkpoint that are still to come."""


def newest_state(folder: Path) -> Path | None:
    """The last checkpoint in the folder of a run."""
    return next(reversed(sealed_in(folder)), None)


def pieces_of(number: int, checkpoint: Path) -> Iterator[StatePiece]:
    """A checkpoint in pieces; it may be removed once the first piece is there.

    Raises:
        OSError: it is not there, or cannot be read.
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
    """Writes the states of the runs of a pack, each of which appears whole or not at all.

    Args:
        folder: of the study, or one of the same form on a node.
        pack: whose states come.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self._folders = {job.number: run_folder(folder, job.trial) for job in pack}
        self._begun: dict[int, tuple[str, Path | None]] = {}
        """Checkpoints of which pieces have come, by the number of the job, with their drafts; None if it could not be written."""

    def take(self, piece: StatePiece) -> None:
        """Write the next piece of a checkpoint.

        Raises:
            OSError: the disk is full or refuses. The rest of this checkpoint is passed by.
        """
        target = self._folders[piece.number] / piece.checkpoint
        name, draft = self._begun.get(piece.number, ("", None))
        if name != piece.checkpoint:  # of one before it the rest never comes
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
    """Finds new states of the runs of a pack; those that are there before it are known to the study.

    Args:
        folder: where the runs are saved.
        pack: of the runs.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self._folders = {job.number: run_folder(folder, job.trial) for job in pack}
        self._sent = {number: newest_state(path) for number, path in self._folders.items()}
        self._due_s = 0.0

    def pieces(self) -> Iterator[StatePiece]:
        """The newest state of every run, unless it was sent before; after large ones there is a pause first."""
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
            with suppress(FileNotFoundError):  # a newer one has just taken its place
                yield from pieces_of(number, newest)

    def end(self, number: int) -> None:
        """The run is over: its states are removed."""
        shutil.rmtree(self._folders.pop(number), ignore_errors=True)
