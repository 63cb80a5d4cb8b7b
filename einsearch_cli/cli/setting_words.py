"""`--set key=value` words of a command line as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.settings import Given
    from einsearch_cli.structures.safe_yaml import Location


@dataclass(frozen=True)
class SetWords:
    """Keys with their values, and with what was typed."""

    values: dict[str, Any]
    texts: dict[str, str]

    def origin(self, location: Location) -> Given:
        """How messages name a setting of one command's `--set`."""
        from einsearch_cli.settings import Given

        name = ".".join(str(part) for part in location if isinstance(part, str))
        place = "--set: " if name in self.texts else ""
        return Given(name, lambda value: f"--set {name}={value}", place, self.texts.get(name))


def as_words(value: str) -> str:
    """A value as a file has it, as an option takes it.

    >>> as_words("[64, 128]")
    '64,128'
    """
    return value.strip("[]").replace(", ", ",")


def read_set_words(words: Sequence[str]) -> SetWords:
    """Values are read as YAML reads them: `width=512`, `tied=false`, `norm=rms`.

    Raises:
        SpecError: a word without `=`, or a value that is not plain YAML.

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
