"""The meaning of the text of a single value: the scalars of YAML 1.2, and whole numbers."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

Scalar = None | bool | int | float | str

_MAX_DIGITS: Final = 1000
"""The most digits of a whole number; the largest that any setting takes has twenty."""
_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_REAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)


def core_scalar(text: str) -> Scalar:
    """The value of an unquoted YAML scalar by the core schema of YAML 1.2.

    Unlike in YAML 1.1, `010` is ten, and `12:30`, `yes`, `no` and `1_000` are text. A number of more than
    1000 characters is text too.

    >>> core_scalar("010"), core_scalar("12:30"), core_scalar("no"), core_scalar("1e3"), core_scalar("0x1F")
    (10, '12:30', 'no', 1000.0, 31)
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _REAL.fullmatch(text):
        return float(text)
    if special := _NOT_FINITE.fullmatch(text):
        return float(f"{special['sign'] or ''}inf" if text.lower().endswith("inf") else "nan")
    return text


def whole_number(text: str) -> int | None:
    """The whole number that a text such as `64`, `1e3` or `2.5e3` stands for; None for anything else.

    >>> whole_number("064"), whole_number("2.5e3"), whole_number("1.5"), whole_number("1_000")
    (64, 2500, None, None)
    """
    text = text.strip()
    if not _REAL.fullmatch(text) or len(text) > _MAX_DIGITS:
        return None
    number = Decimal(text)
    if abs(number.adjusted()) > _MAX_DIGITS or number != number.to_integral_value():
        return None
    return int(number)


def exact_whole(value: object) -> object:
    """Convert a float that is a whole number to an int, since YAML and JSON write large ones as `1e9`.

    >>> exact_whole(1e3), exact_whole(1.5), exact_whole(True), exact_whole("3")
    (1000, 1.5, True, '3')
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value
