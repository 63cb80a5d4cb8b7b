"""Options that take numbers: whole ones may be written as 1e3, and every refusal says the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import typer

from einsearch_cli.errors import SpecError

MAX_DIMENSION = 2**48
MAX_TOKENS = 10**15
"""Most tokens of one call, or of a whole training run."""
MAX_SEED = 2**63 - 1
MANY = 10**18
"""Where something else sets the limit."""


def whole_option(
    name: str,
    *flags: str,
    default: int | None,
    least: int,
    most: int,
    help: str,
    example: int | None = None,
    limit: str | None = None,
) -> Any:
    """An option that takes a whole number from `least` to `most`; `name` is `--name`, `limit` the rule for `most`."""
    parser = whole_parser(name, least, most, example=(default or least) if example is None else example, limit=limit)
    return typer.Option(default, name, *flags, parser=parser, metavar="N", help=help)


def whole_parser(name: str, least: int, most: int, *, example: int, limit: str | None = None) -> Callable[[Any], int]:
    """Reads the text of one whole number.

    Raises:
        SpecError: text that is not a whole number in the range.

    >>> whole_parser("--d-in", 1, 2**48, example=1024)("1e3")
    1000
    """

    def read(text: Any) -> int:
        if isinstance(text, int):  # a default: --help reads it too, and imports nothing for it
            return text
        from einsearch_cli.structures.scalars import whole_number

        number = whole_number(text)
        named = name if name.endswith(":") else f"{name} "
        if number is None or not least <= number <= most:
            raise SpecError(
                f"{named}{_shown(text)}: a whole number from {least:,} to {limit or _limit_text(most)} is needed",
                remedy=f"{named}{example}",
            )
        return number

    return read


def whole_list(name: str, text: str, least: int, most: int, *, example: str) -> list[int]:
    """The whole numbers of a text with commas between them.

    Raises:
        SpecError: naming the first part that is not one in the range.

    >>> whole_list("--widths", "64, 1e3", 1, 1000000, example="64,128")
    [64, 1000]
    """
    from einsearch_cli.structures.scalars import whole_number

    numbers = []
    for part in text.split(","):
        number = whole_number(part)
        if number is None or not least <= number <= most:
            shown = _shown(part.strip()) if part.strip() else "an empty entry"
            raise SpecError(
                f"{name} {_shown(text)}: {shown} is not a whole number from {least:,} to {_limit_text(most)}",
                remedy=f"{name} {example}",
            )
        numbers.append(number)
    return numbers


def real_option(
    name: str, *, default: float | None, rule: str, fits: Callable[[float], bool], example: str, help: str
) -> Any:
    """An option that takes a finite number that `fits`; `rule` says which, such as `above 0`."""

    def read(text: Any) -> float:
        try:
            number = float(text) if isinstance(text, int | float) or (text.isascii() and "_" not in text) else math.nan
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and fits(number)):
            raise SpecError(f"{name} {_shown(text)}: a number {rule} is needed", remedy=f"{name} {example}")
        return number

    return typer.Option(default, name, parser=read, metavar="NUMBER", help=help)


def _limit_text(limit: int) -> str:
    """A limit in digits, or as a power where it has many.

    >>> _limit_text(1000), _limit_text(2**48), _limit_text(10**15)
    ('1,000', '2^48', '10^15')
    """
    for base in (2, 10):
        power = round(math.log(limit, base))
        if limit > 10**9 and limit in (base**power, base**power - 1):
            return f"{base}^{power}" + ("" if limit == base**power else " - 1")
    return f"{limit:,}"


def _shown(text: Any) -> str:
    """The text of an option as it was typed, quoted where quotes are needed to see it."""
    shown = str(text)
    plain = shown.isascii() and shown.isprintable() and shown and " " not in shown
    return shown[:60] + "…" * (len(shown) > 60) if plain else repr(shown[:60])


D_IN = whole_option(
    "--d-in",
    default=None,
    example=1024,
    least=1,
    most=MAX_DIMENSION,
    help="Input dimension; 1024, or what the sizes fix.",
)
D_OUT = whole_option(
    "--d-out", default=None, example=1024, least=1, most=MAX_DIMENSION, help="Output dimension; d_in if not given."
)
