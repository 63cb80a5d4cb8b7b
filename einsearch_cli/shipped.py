"""The specs that come with einsearch, by name: `demo` is specs/demo.yaml of the project."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from einsearch_cli.errors import DataError, SpecError, near_name

_PACKAGE: Final = Path(__file__).resolve().parent
FOLDER: Final = (_PACKAGE if (_PACKAGE / "specs").is_dir() else _PACKAGE.parent) / "specs"
"""A wheel has the specs in the package; in a checkout they lie next to it."""
_DATA: Final = re.compile(r"(?:\.\./)+data/[\w./-]*\w")
"""Paths of what `make data` fetches, as specs write them."""


class Kind(StrEnum):
    """The purpose of a spec."""

    study = "study"
    training = "training"
    structures = "structures"


_COMMANDS: Final = {Kind.study: "rank", Kind.training: "train", Kind.structures: "classify"}


@cache
def shipped_specs() -> dict[str, Kind]:
    """The names of all specs, and what each is for.

    >>> shipped_specs()["demo"], shipped_specs()["train-structured"]
    (<Kind.study: 'study'>, <Kind.training: 'training'>)
    """
    paths = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (len(path.relative_to(FOLDER).parts), path))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): _kind(path.read_text("utf-8")) for path in paths}


def names_of(*kinds: Kind) -> list[str]:
    """The names of the specs of some kinds.

    >>> names_of(Kind.structures)
    ['structures', 'paper/vectors']
    """
    return [name for name, kind in shipped_specs().items() if kind in kinds]


def shipped_path(word: str, *kinds: Kind) -> str:
    """The path of the spec that a word names; any other word as it is.

    No file can be meant by such a word: files have suffixes.

    Raises:
        SpecError: it is of none of these kinds, if some are given.

    >>> shipped_path("demo").endswith("specs/demo.yaml"), shipped_path("demo.yaml")
    (True, 'demo.yaml')
    """
    kind = shipped_specs().get(word)
    if kind is not None and kinds and kind not in kinds:
        raise SpecError(f"{word} is a spec of {_COMMANDS[kind]}", remedy=f"einsearch {_COMMANDS[kind]} {word}")
    return word if kind is None else str(FOLDER / f"{word}.yaml")


def refuse_near_spec(word: str, *kinds: Kind) -> None:
    """Complain about a word that is nearly the name of a spec of some kinds, and has no suffix of a file.

    Raises:
        SpecError: with that name.
    """
    near = near_name(word, names_of(*kinds)) if word.isascii() and not Path(word).suffix else None
    if near is not None:
        raise SpecError(f"no spec that comes with einsearch is named {word!r}", remedy=near)


def refuse_missing_data(spec: Path, text: str, images: str = "") -> None:
    """Complain if a spec of ours needs data that are not there.

    Args:
        spec: the file of any spec.
        text: the option that takes another text.
        images: the one that takes other images.

    Raises:
        DataError: with the way to get them.
    """
    if not spec.resolve().is_relative_to(FOLDER) or not spec.is_file():
        return
    for path in _DATA.findall(spec.read_text("utf-8")):
        if not (data := (spec.parent / path).resolve()).exists():
            option = text if path.endswith(".txt") else images
            raise DataError(
                f"{spec.name} trains on {path.lstrip('./')}, which is not part of einsearch: there is no {data}",
                remedy=f"`make data` in a checkout of einsearch, or data of your own: {option}",
            )


def _kind(text: str) -> Kind:
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    return Kind.training if "model" in keys else Kind.study if "task" in keys else Kind.structures
