"""Options of engines: `--engine-option KEY=VALUE`, read and checked by the settings of each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from einsearch_cli.errors import SpecError
from einsearch_cli.settings import Given, Settings, read_settings
from einsearch_cli.structures.safe_yaml import Location, load_yaml

OPTION = "--engine-option"


class EngineOptions(Settings):
    """Base class of the options of an engine; each field is an option."""


def split_words(words: Sequence[str]) -> dict[str, str]:
    """Options as they were typed, by key; if a key is given twice, the last value counts.

    Raises:
        SpecError: a word without a key, `=` or a value.

    >>> split_words(["partition=main", "time=2h"])
    {'partition': 'main', 'time': '2h'}
    """
    found = {}
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not (key and equals and text):
            raise SpecError(f"{OPTION} {word[:60]!r}: it needs a key and a value", remedy=f"{OPTION} KEY=VALUE")
        found[key] = text
    return found


def read_options(engine: str, kind: type[EngineOptions] | None, words: Mapping[str, str]) -> EngineOptions:
    """Read the options of an engine from text.

    Numbers, true and false are read as in YAML; other text is taken literally.

    Args:
        engine: its name, for messages.
        kind: its options; None if it has none.
        words: text by key.

    Raises:
        SpecError: an unknown key, or a value that the option does not take.

    >>> from pydantic import Field
    >>> class Two(EngineOptions):
    ...     account: str = ""
    ...     nodes: int = Field(default=1, ge=1)
    >>> read_options("two", Two, {"account": "007", "nodes": "3"})
    Two(account='007', nodes=3)
    >>> read_options("two", Two, {"nodes": "0"})
    Traceback (most recent call last):
    ...
    einsearch_cli.settings.reading.SettingError: engine two: nodes is 0: a whole number from 1 on is needed
    try: --engine-option nodes=1
    """
    if kind is None:
        if words:
            raise SpecError(
                f"{OPTION} {next(iter(words))[:60]}: the engine {engine} has no options", remedy="leave it out"
            )
        return EngineOptions()

    def origin(location: Location) -> Given:
        key = str(location[0]) if location else ""
        return Given(key, lambda value: f"{OPTION} {key}={value}", f"engine {engine}: ", words.get(key))

    def value(key: str, text: str) -> object:
        field = kind.model_fields.get(key)
        is_text = field is None or not _takes_numbers(field.annotation)
        return text if is_text else load_yaml(text, f"{OPTION} {key}").data

    return read_settings(kind, {key: value(key, text) for key, text in words.items()}, origin)


def _takes_numbers(annotation: Any) -> bool:
    """Whether a type is a number or a truth value, or has one among its alternatives.

    >>> _takes_numbers(int | None), _takes_numbers(str | None)
    (True, False)
    """
    return annotation in (bool, int, float) or any(map(_takes_numbers, get_args(annotation)))
