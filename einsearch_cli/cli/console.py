"""Output of commands: messages go to stderr, data to stdout; colours only on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Characters that are invisible, move the cursor, or change colours or the direction of writing; not tab, newline."""


class Volume(Enum):
    """The amount of messages on stderr; stdout is the same with each."""

    quiet = "quiet"
    """Errors and warnings."""
    normal = "normal"
    """Also files written, findings, and progress."""
    verbose = "verbose"
    """Also a line for each finished part, and the time of every line."""


@dataclass
class _Voice:
    volume: Volume = Volume.normal
    started_s: float = 0.0


_voice = _Voice()


def set_volume(volume: Volume) -> None:
    """Set the amount of messages of this process from now on."""
    _voice.volume, _voice.started_s = volume, time.perf_counter()


def is_verbose() -> bool:
    """Whether each finished part has a line, on a terminal too."""
    return _voice.volume is Volume.verbose


def error(problem: str, remedy: str | None = None) -> None:
    """Print an error and what to do about it."""
    _print(f"error: {problem}" + (f"\n  try: {remedy}" if remedy else ""))


def talk(text: str) -> None:
    """Print a line for the person at the terminal."""
    if _voice.volume is not Volume.quiet or text.startswith("warning: "):
        _print(timed(text))


def timed(text: str) -> str:
    """A line with the seconds since the start in front of it, if requested."""
    return f"{time.perf_counter() - _voice.started_s:.1f} s  {text}" if is_verbose() and text.strip() else text


def _print(text: str) -> None:
    room = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    print(wrapped(printable(text), room), file=sys.stderr, flush=True)  # noqa: T201


def data(text: str, out: Path | None = None) -> None:
    """Print the result of a command, or write it to a file."""
    if out is None:
        print(shown(text.rstrip("\n")))  # noqa: T201
        return
    from einsearch_cli.files import write_atomically

    write_atomically(out, text.rstrip("\n") + "\n")
    talk(f"wrote {out}")


def stream(text: str) -> None:
    """Print a piece of the result at once, without ending the line."""
    print(shown(text), end="", flush=True)  # noqa: T201


def printable(text: str) -> str:
    """Text with escapes for characters that a terminal would obey or not show.

    The escapes are those of JSON, so that JSON stays what it is.

    >>> printable("\\x1b[31mred\\u202e")
    '\\\\u001b[31mred\\\\u202e'
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(text: str) -> str:
    """Printable text if stdout is a terminal, otherwise the text itself."""
    return printable(text) if sys.stdout.isatty() else text


def width() -> int | None:
    """The number of columns of stdout's terminal; None if stdout is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, room: int | None) -> str:
    """Sentences that fit a terminal; lines with gaps, which are parts of tables, and single words stay as they are.

    >>> print(wrapped("error: a long one\\n  try: less\\nname   value   note", 11))
    error: a
    long one
      try: less
    name   value   note
    """
    if room is None:
        return text
    return "\n".join(_folded(line, room) for line in text.split("\n"))


def _folded(line: str, room: int) -> str:
    sentence = line.strip()
    if len(line) <= room or "  " in sentence:
        return line
    import textwrap

    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        sentence,
        room,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def stdout_is_file() -> bool:
    """Whether stdout is a regular file, so that a progress bar cannot mix with its lines."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def read_stdin(most_bytes: int) -> str:
    """All of stdin, read as UTF-8 like files, whatever the terminal's encoding."""
    if sys.stdin is None or sys.stdin.closed:
        raise SpecError("stdin is closed: there is nothing to read", remedy="einsearch ... - < FILE")
    buffer, most = getattr(sys.stdin, "buffer", None), most_bytes + 1
    raw = sys.stdin.read(most).encode() if buffer is None else bytes(buffer.read(most))
    if len(raw) > most_bytes:
        raise SpecError(f"stdin has more than {most_bytes:,} bytes", remedy="split the input")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"stdin is not UTF-8 (byte {error.start}): text must be UTF-8",
            remedy="iconv -t UTF-8 < FILE | einsearch ... -",
        ) from error


def talk_console(*, quiet: bool = False) -> Console:
    """A rich console on stderr; a quiet one shows nothing, and so do all with `--quiet`."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet or _voice.volume is Volume.quiet)
