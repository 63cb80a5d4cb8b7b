"""The base of all settings, and the types that they share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from einsearch_cli.errors import RuleError
from einsearch_cli.structures.scalars import exact_whole

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown keys; true is not 1, and "3" is not 3."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def folder_name(text: str, otherwise: str) -> str:
    """Text as the name of a folder: what is not allowed becomes -.

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


Whole = Annotated[int, BeforeValidator(exact_whole)]
"""A whole number, which may be written as 1e3."""

PathSetting = Annotated[Path, BeforeValidator(_path)]
"""A path, given as text."""

FolderName = Annotated[str, AfterValidator(_check_name)]
"""Text that can be the name of a folder."""
