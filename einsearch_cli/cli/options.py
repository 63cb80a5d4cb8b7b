"""Options shared by commands: numbers, paths, devices, and settings by name.

Whole numbers may be written as 1e3, and every refusal says the range.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from einsearch_cli.errors import OutputError, SpecError, near_or_all

if TYPE_CHECKING:
    from einsearch_cli.settings import Given
    from einsearch_cli.structures.safe_yaml import Location

MAX_DIMENSION = 2**48
MAX_TOKENS = 10**15
"""The most tokens of one call, or of a whole training run."""
MAX_SEED = 2**63 - 1
MANY = 10**18
"""The largest number if something else sets the limit."""
PER_CORE: Final = 4
"""The most threads or processes per core: more only wait for each other, and very many end the process."""
CORE_LIMIT: Final = f"{PER_CORE * (os.cpu_count() or 1)}, {PER_CORE} for each core,"
"""The rule in words, after `a whole number from 1 to`."""
WORKER_BYTES: Final = 400 << 20
"""Bytes that a worker process needs before it trains anything: torch and its own Python."""
LEAST_WORKER_BYTES: Final = 500_000_000
"""The least memory limit of a worker: with torch alone it has allocated 265 MB."""
_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?) ?([MG]B)", re.IGNORECASE)
_UNITS: Final = {"MB": 10**6, "GB": 10**9}


class Dtype(StrEnum):
    """Types of the tensors."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Device(StrEnum):
    """The device of the layers."""

    cpu = "cpu"
    cuda = "cuda"


def refuse_too_many(option: str, number: int, *, bytes_each: int = 0) -> None:
    """Raise an error for more threads or processes than this machine can run.

    Args:
        option: as it was given.
        number: its value.
        bytes_each: memory that each takes.
    """
    cores = os.cpu_count() or 1
    if number > (most := PER_CORE * cores):
        raise SpecError(
            f"{option} {number}: this machine has {cores} core{'s' * (cores != 1)}, and takes up to {PER_CORE} for each",
            remedy=f"{option} {cores}, or at most {most}",
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if number > (most := max(1, memory // bytes_each if bytes_each else number)):
        raise SpecError(
            f"{option} {number}: each takes {bytes_each / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB",
            remedy=f"{option} {most} at most",
        )


def whole_option(
    name: str,
    *flags: str,
    within: tuple[int, int],
    help: str,
    default: int | None = None,
    example: int | None = None,
    limit: str | None = None,
    shown: str | None = None,
) -> Any:
    """An option that takes a whole number within limits.

    Args:
        name: `--name`.
        flags: short names.
        within: smallest and largest number.
        help: what it is.
        default: the number without the option.
        example: a number for messages.
        limit: the rule for the largest one, in words.
        shown: default for `--help`, where it is decided later.
    """
    least, most = within
    parser = whole_parser(name, least, most, example=(default or least) if example is None else example, limit=limit)
    return typer.Option(default, name, *flags, parser=parser, metavar="N", help=help, show_default=shown or True)


def whole_parser(name: str, least: int, most: int, *, example: int, limit: str | None = None) -> Callable[[Any], int]:
    """A parser of one whole number.

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
                f"{named}{as_typed(text)}: a whole number from {least:,} to {limit or _limit_text(most)} is needed",
                remedy=f"{named}{example}",
            )
        return number

    return read


def whole_list(name: str, text: str, least: int, most: int, *, example: str) -> list[int]:
    """The whole numbers of a text with commas between them.

    >>> whole_list("--widths", "64, 1e3", 1, 1000000, example="64,128")
    [64, 1000]
    """
    from einsearch_cli.structures.scalars import whole_number

    numbers = []
    for part in text.split(","):
        number = whole_number(part)
        if number is None or not least <= number <= most:
            shown = as_typed(part.strip()) if part.strip() else "an empty entry"
            raise SpecError(
                f"{name} {as_typed(text)}: {shown} is not a whole number from {least:,} to {_limit_text(most)}",
                remedy=f"{name} {example}",
            )
        numbers.append(number)
    return numbers


Rule = tuple[str, Callable[[float], bool]]
"""The condition on a number, in words and as a test."""
POSITIVE: Final[Rule] = ("above 0", lambda number: number > 0)
SHARE: Final[Rule] = ("above 0 and at most 1", lambda number: 0 < number <= 1)


class TypedNumber(float):
    """A number that knows how it was typed: `5e-4`, not `0.0005`."""

    text: str


def real_option(
    name: str, *, rule: Rule, example: str, help: str, default: float | None = None, shown: str | None = None
) -> Any:
    """An option that takes a finite number; `shown` is its default for `--help`, where that is decided later."""
    text_of_rule, fits = rule

    def read(text: Any) -> float:
        try:
            number = float(text) if isinstance(text, int | float) or (text.isascii() and "_" not in text) else math.nan
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and fits(number)):
            raise SpecError(f"{name} {as_typed(text)}: a number {text_of_rule} is needed", remedy=f"{name} {example}")
        typed = TypedNumber(number)
        typed.text = str(text)
        return typed

    return typer.Option(default, name, parser=read, metavar="NUMBER", help=help, show_default=shown or True)


def duration_option(name: str, *, default: str | None = None, example: str, help: str, shown: str | None = None) -> Any:
    """An option that takes a duration, such as 90s, 5m or 2h, and gives seconds."""

    def read(text: Any) -> float:
        from einsearch_cli.settings import duration_s

        seconds = duration_s(str(text))
        if not seconds:
            raise SpecError(
                f"{name} {as_typed(text)}: a number above 0 with s, m, h or d is needed", remedy=f"{name} {example}"
            )
        return seconds

    return typer.Option(default, name, parser=read, metavar="TIME", help=help, show_default=shown or True)


def memory_option(name: str, *, least: int, help: str) -> Any:
    """An option that takes an amount of memory of at least `least` bytes, such as 500MB or 4GB, and gives bytes."""

    def read(text: Any) -> int:
        found = _MEMORY.fullmatch(str(text).strip())
        size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
        if size < least:
            raise SpecError(
                f"{name} {as_typed(text)}: a number with MB or GB is needed, from {least / 1e6:g}MB on",
                remedy=f"{name} 4GB",
            )
        return size

    return typer.Option(None, name, parser=read, metavar="BYTES", help=help, show_default="no limit")


def choice_refusal(option: str, text: str, choices: Sequence[str]) -> SpecError:
    """The error for a value that is none of those that an option takes.

    >>> print(choice_refusal("--by", "flop", ["flops", "total"]))
    --by flop: one of flops, total is needed
    try: --by flops
    """
    return SpecError(
        f"{option} {as_typed(text)}: one of {', '.join(choices)} is needed",
        remedy=f"{option} {near_or_all(text, choices)}",
    )


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


def as_typed(text: Any) -> str:
    """The text of an option as it was typed, quoted where quotes are needed to see it."""
    shown = str(text)
    plain = shown.isascii() and shown.isprintable() and shown and " " not in shown
    return shown[:60] + "…" * (len(shown) > 60) if plain else repr(shown[:60])


def out_file(*, default: Any = None, help: str, shown: str | None = None) -> Any:
    """The option `--out` of a command that writes a file."""
    return typer.Option(
        default,
        "--out",
        parser=path_parser("--out", _refuse_folder),
        metavar="PATH",
        help=help,
        show_default=shown or True,
    )


def out_folder(*, default: Any = None, help: str, shown: str | None = None) -> Any:
    """The option `--out` of a command that writes a folder."""
    return typer.Option(
        default,
        "--out",
        parser=path_parser("--out", _refuse_file),
        metavar="PATH",
        help=help,
        show_default=shown or True,
    )


def output_path(text: str, *, is_folder: bool) -> Path:
    """The value of an `--out` whose kind depends on another option."""
    return path_parser("--out", _refuse_file if is_folder else _refuse_folder)(text)


def path_parser(name: str, check: Callable[[str, str], None] | None = None) -> Callable[[Any], Path]:
    """A parser of a path; `check` is called with the name of the option and the text.

    Raises:
        SpecError: no text, which Python takes for the current folder.
    """

    def read(text: Any) -> Path:
        if text == "":
            raise SpecError(f"{name} is empty: a path is needed", remedy=f"{name} NAME")
        if check is not None:
            check(name, str(text))
        return Path(text)

    return read


def _refuse_folder(name: str, text: str) -> None:
    if text.endswith(("/", os.sep)) and not os.path.isdir(text):  # of a folder that is there, its writer says so
        raise OutputError(
            f"{name} {text!r}: a {text[-1]} at the end asks for a folder, a file is needed",
            remedy=f"leave the {text[-1]} out, or name a file in that folder",
        )


def _refuse_file(name: str, text: str) -> None:
    if os.path.lexists(text) and not os.path.isdir(text):
        raise OutputError(
            f"{name} {text!r} is not a folder: a folder is needed", remedy="give a name that is not taken"
        )


@dataclass(frozen=True)
class SetWords:
    """Keys with their values, and the typed texts."""

    values: dict[str, Any]
    texts: dict[str, str]

    def origin(self, location: Location) -> Given:
        """How messages name a setting of one command's `--set`."""
        from einsearch_cli.settings import Given

        name = ".".join(str(part) for part in location if isinstance(part, str))
        place = "--set: " if name in self.texts else ""
        return Given(name, lambda value: f"--set {name}={value}", place, self.texts.get(name), is_change=bool(place))


def as_words(value: str) -> str:
    """A value of a file as an option takes it.

    >>> as_words("[64, 128]")
    '64,128'
    """
    return value[1:-1].replace(", ", ",") if value.startswith("[") else value


def read_set_words(words: Sequence[str]) -> SetWords:
    """Read values as YAML does: `width=512`, `tied=false`, `norm=rms`.

    >>> read_set_words(["width=512", "tied=false", "rotary_base=5e5", "structure=btt:r=2"]).values
    {'width': 512, 'tied': False, 'rotary_base': 500000.0, 'structure': 'btt:r=2'}
    """
    from einsearch_cli.structures.safe_yaml import load_yaml

    found = SetWords({}, {})
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not (key and equals and text):
            raise SpecError(f"--set {word[:60]!r}: it needs a key and a value", remedy="--set width=512")
        found.values[key] = load_yaml(text, f"--set {key}").data
        found.texts[key] = text
    return found


def flag(name: str, help: str, default: bool | None = False) -> Any:
    """An option without a value; None, where it is not given, is not shown as a default."""
    return typer.Option(default, name, metavar="", help=help, show_default=default is not None)


OVERWRITE = flag("--overwrite", "Replace a file that exists; folders are never replaced.")


def refuse_taken(out: Path | None, overwrite: bool, option: str = "--out") -> None:
    """Raise an error for a file that would be lost; pipes and devices are written into.

    Raises:
        OutputError: it is there, and was not asked to be replaced.
    """
    from einsearch_cli.files import is_stream

    if out is not None and not overwrite and out.is_file() and not is_stream(out):
        raise OutputError(f"{option} {str(out)!r} exists already", remedy="add --overwrite, or give another name")


D_IN = whole_option(
    "--d-in", example=1024, within=(1, MAX_DIMENSION), help="Input dimension.", shown="what the sizes fix, else 1024"
)
D_OUT = whole_option(
    "--d-out", example=1024, within=(1, MAX_DIMENSION), help="Output dimension.", shown="what the sizes fix, else d_in"
)
