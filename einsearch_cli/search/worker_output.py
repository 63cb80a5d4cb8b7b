"""The output of a worker in bounded memory: its beginning and its end."""

from __future__ import annotations

import os
from typing import Final

_FIRST: Final = 1 << 14
_LAST: Final = 1 << 16
_PIECE: Final = 1 << 16
_PIECES: Final = 64
"""The most pieces that are read at once, so that a worker that prints without end leaves time for the others."""


class WorkerOutput:
    """Reads the pipe into which a worker prints, and keeps the first 16 kB and the last 64 kB since `clear`.

    Args:
        handle: reading end of the pipe; reading never waits.
    """

    def __init__(self, handle: int) -> None:
        os.set_blocking(handle, False)
        self._handle = handle
        self.is_open = True
        self.clear()

    def clear(self) -> None:
        """Forget all output so far."""
        self._first, self._last, self._left_out = b"", b"", 0

    def read(self) -> None:
        """Read what waits in the pipe."""
        for _ in range(_PIECES):
            try:
                piece = os.read(self._handle, _PIECE)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self.is_open = False
                return
            self._keep(piece)

    def _keep(self, piece: bytes) -> None:
        room = max(0, _FIRST - len(self._first))
        self._first += piece[:room]
        last = self._last + piece[room:]
        self._left_out += max(0, len(last) - _LAST)
        self._last = last[-_LAST:]

    def text(self) -> str:
        """The stored output, with a line that says how much was left out in between."""
        between = f"\n… {self._left_out:,} bytes left out …\n" if self._left_out else ""
        return self._first.decode(errors="replace") + between + self._last.decode(errors="replace")
