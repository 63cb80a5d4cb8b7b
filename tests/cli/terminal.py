"""Runs the command at a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path


def at_terminal(arguments: list[str], columns: int, folder: Path) -> tuple[int, str]:
    """Exit code, and all that appears on a terminal of 24 lines and `columns` columns."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-m", "einsearch_cli", *arguments]
        os.execve(sys.executable, command, {**environment, "TERM": "xterm-256color", "PYTHONUTF8": "1"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown = b""
    while piece := _read(terminal):
        shown += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""
