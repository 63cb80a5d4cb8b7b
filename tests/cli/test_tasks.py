"""`einsearch tasks`: the settings of the proxy tasks."""

from __future__ import annotations

import json


def test_defaults_are_written_as_in_a_file(einsearch) -> None:
    rows = json.loads(einsearch("tasks", "--format", "json").out)
    defaults = {row["setting"]: row["default"] for row in rows}
    assert (defaults["dense_input"], defaults["data.tokens"], defaults["data.dataset.name"]) == (
        "true",
        "none",
        "required",
    )
    assert not set(defaults.values()) & {"None", "True", "False", "()", "[]", "{}", ""}
