"""The base class of all settings, and the types that they share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from einsearch_cli.errors import RuleError
from einsearch_cli.structures.scalars import exact_whole

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 1000 * 86_400
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Settings(BaseModel):
    """Base class of all settings: frozen, without unknown keys; true is not 1, and "3" is not 3."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def folder_name(text: str, otherwise: str) -> str:
    """Text as the name of a folder: characters that are not allowed become -.

    >>> folder_name("my study (2)", "study"), folder_name("…", "study")
    ('my-study-2', 'study')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or otherwise


def _check_name(name: str) -> str:
    if not _FOLDER_NAME.fullmatch(name):
        raise RuleError(
            "letters, digits and . _ - are allowed, at most 64, the first a letter or a digit",
            remedy=folder_name(name, "first-try"),
        )
    return name


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else value


def duration_s(text: str) -> float | None:
    """The seconds of a duration, or None for other text.

    >>> duration_s("2h"), duration_s("90m"), duration_s("3600s"), duration_s("1.5d"), duration_s("2 hours")
    (7200.0, 5400.0, 3600.0, 129600.0, None)
    """
    found = _DURATION.fullmatch(text)
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def _check_duration(value: object) -> object:
    if isinstance(value, int | float | str) and not 0 < (duration_s(str(value)) or 0.0) <= _LONGEST_S:
        raise RuleError("a number above 0 with s, m, h or d is needed, up to 1000d", remedy="2h")
    return value


Whole = Annotated[int, BeforeValidator(exact_whole)]
"""A whole number, which may be written as 1e3."""

PathSetting = Annotated[Path, BeforeValidator(_path)]
"""A path, given as text."""

FolderName = Annotated[str, AfterValidator(_check_name)]
"""Text that can be the name of a folder."""

Duration = Annotated[str, BeforeValidator(_check_duration)]
"""A duration as text, such as 2h, 90m or 3600s; `duration_s` reads it."""
