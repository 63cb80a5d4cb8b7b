"""The standard streams of any shell: closed, full, or with another encoding than UTF-8."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from typing import Any, Final

_SPELLED: Final = "einsearch.spelled"
_SPELLINGS: Final = {
    "ω": "omega",
    "ψ": "psi",
    "ν": "nu",
    "ρ": "rho",
    "β": "beta",
    "τ": "tau",
    "θ": "theta",
    "×": "x",
    "·": "*",
    "±": "+-",
    "–": "-",
    "−": "-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "√": "sqrt",
    "─": "-",
    "━": "-",
    "│": "|",
    "┊": "|",
    "●": "o",
    "┃": "|",
}


def prepare_streams() -> None:
    """Make sure that writing to a standard stream fails only because of its reader.

    A closed one is opened on the null device, so that no file of ours gets its number; `sys.stdin` and `sys.stdout`
    stay None then, which commands refuse. What cannot be said on stderr is dropped. Characters that an encoding lacks
    are spelled out, or escaped within JSON.
    """
    codecs.register_error(_SPELLED, _spelled)
    for number in (0, 1, 2):
        _reserve(number)
    for stream in (sys.stdout, sys.stdin):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SPELLED if stream is sys.stdout else "strict")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    lossy = io.BufferedWriter(_Lossy(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(lossy, encoding=encoding, errors=_SPELLED, line_buffering=True)


def _reserve(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDWR), number)


class _Lossy(io.FileIO):
    """A stream that ignores failures, as there is no place to report them."""

    def write(self, data: Any, /) -> int:
        """Write, and report success in any case."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Spell out characters that an encoding lacks; JSON keeps its meaning."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if error.object.lstrip()[:1] in ("{", "["):
        return "".join(map(_escape, lacking)), error.end
    return "".join(
        _spelling(character, before) for character, before in zip(lacking, " " + lacking, strict=False)
    ), error.end


def _spelling(character: str, before: str) -> str:
    if character in _SPELLINGS:
        return _SPELLINGS[character]
    if "SUPERSCRIPT" in unicodedata.name(character, ""):
        digit = unicodedata.normalize("NFKD", character).replace("−", "-")
        return digit if "SUPERSCRIPT" in unicodedata.name(before, "") else f"^{digit}"
    if "\u2500" <= character <= "\u257f":
        return "+"
    return _escape(character)


def _escape(character: str) -> str:
    """The escape of a character as JSON writes it: two halves for characters beyond U+FFFF."""
    halves = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{halves[place]:02x}{halves[place + 1]:02x}" for place in range(0, len(halves), 2))
