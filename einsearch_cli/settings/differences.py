"""Describe in words how two versions of settings differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`key was A and is B` for every plain value that differs; for lists, the lost and the new entries.

    >>> differences({"steps": 30, "a": {"b": 1}, "c": ["x", "y"]}, {"steps": 40, "a": {"b": 1}, "c": ["y", "z"]})
    ['c has lost "x" and gained "z"', 'steps was 30 and is 40']
    """
    found = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif isinstance(old, list) and isinstance(new, list) and old != new:
            found.append(f"{prefix}{key} {_changed(old, new)}")
        elif old != new:
            found.append(f"{prefix}{key} was {_shown(old)} and is {_shown(new)}")
    return found


def _changed(old: list[Any], new: list[Any]) -> str:
    lost, gained = ([x for x in a if x not in b] for a, b in ((old, new), (new, old)))
    parts = [f"{verb} {_listed(entries)}" for verb, entries in (("lost", lost), ("gained", gained)) if entries]
    return f"has {' and '.join(parts)}" if parts else "is in another order"


def _listed(entries: list[Any]) -> str:
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return ", ".join(map(_shown, entries[:3])) + more


def _shown(value: object) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)[:60]
