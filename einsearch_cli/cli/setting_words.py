"""`--set key=value` words of a command line as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einsearch_cli.errors import SpecError


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Keys with values, which are read as YAML reads them: `width=512`, `tied=false`, `norm=rms`.

    Raises:
        SpecError: a word without `=`, or a value that is not plain YAML.

    >>> read_settings(["width=512", "tied=false", "rotary_base=5e5", "structure=btt:r=2"])
    {'width': 512, 'tied': False, 'rotary_base': 500000.0, 'structure': 'btt:r=2'}
    """
    from einsearch_cli.structures.safe_yaml import load_yaml

    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key.strip() and equals and text.strip()):
            raise SpecError(f"--set {word!r}: it needs a key and a value", remedy="--set width=512")
        settings[key.strip()] = load_yaml(text, f"--set {key.strip()}").data
    return settings
