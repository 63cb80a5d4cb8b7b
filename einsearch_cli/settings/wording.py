"""Describe values, rules and examples of settings in words."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_MAX_SHOWN: Final = 60
_NEEDED: Final = {bool: "true or false is needed", str: "text is needed", Path: "a path is needed"}
_MAPPING: Final = "a mapping of keys to values is needed"

Limits = dict[str, Any]
"""ge, gt, le and lt → number."""


def shown(value: Any, text: str | None = None) -> str:
    """A value for a message, as it was typed if that is known.

    >>> shown(8, "010"), shown(None, "null"), shown("no"), shown([1, 1]), shown(["a"])
    ('010', 'null', "'no'", '[1, 1]', 'a list')
    """
    if isinstance(value, list | tuple) and value and all(isinstance(entry, int | float) for entry in value):
        return yaml_text(value)[:_MAX_SHOWN]
    if isinstance(value, str):
        return repr(value[:_MAX_SHOWN])
    if isinstance(value, Mapping | list | tuple | BaseModel):
        kind = "a list" if isinstance(value, list | tuple) else "a mapping"
        return kind if value else kind.replace("a ", "an empty ")
    return (str(value) if text is None else text)[:_MAX_SHOWN] or "empty"


def needed(field: FieldInfo | None, *, entry: bool, empty: bool) -> str:
    """The requirement of a field, or of an entry of its list."""
    if field is None:
        return _MAPPING
    kind, limits = _plain(field.annotation, field.metadata)
    if get_origin(kind) not in (list, tuple):
        return _needed(kind, limits)
    if not entry:
        return "at least one entry is needed" if empty else "a list is needed"
    return _needed(*_plain(get_args(kind)[0], []))


def _needed(kind: Any, limits: Limits) -> str:
    """A sentence for a type with its limits.

    >>> _needed(int, {"ge": 1, "le": 1000}), _needed(float, {"gt": 0}), _needed(Literal["a", "b"], {})
    ('a whole number from 1 to 1,000 is needed', 'a number above 0 is needed', 'one of a, b is needed')
    """
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))} is needed"
    if kind in (int, float):
        return " ".join(["a whole number" if kind is int else "a number", *_range(limits), "is needed"])
    return _NEEDED.get(kind, _MAPPING)


def _range(limits: Limits) -> list[str]:
    """The limits in words, such as `from 0` and `to 1`."""
    low = [f"from {limits['ge']:,}"] if "ge" in limits else [f"above {limits['gt']:,}"] if "gt" in limits else []
    if "lt" in limits:
        return [*low, *(["and"] if low else []), f"below {limits['lt']:,}"]
    if "le" in limits:
        return [*low, f"{'to' if 'ge' in limits else 'and at most' if low else 'of at most'} {limits['le']:,}"]
    return [*low, "on"] if "ge" in limits else low


def _plain(annotation: Any, metadata: list[Any]) -> tuple[Any, Limits]:
    """A type without None and `Annotated`, and its limits."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        found = [part for item in more for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _plain(inner, [*metadata, *found])
    if origin in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)), metadata)
    names = ("ge", "gt", "le", "lt")
    return annotation, {name: getattr(item, name) for item in metadata for name in names if hasattr(item, name)}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field with this annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def example(field: FieldInfo | None) -> str:
    """A value for a field, as in a file: a given example, the default, or the smallest allowed value."""
    if field is None:
        return "{KEY: VALUE}"
    value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return yaml_text(value) if value not in (None, PydanticUndefined, {}, (), []) else _example_of_type(field)


def _example_of_type(field: FieldInfo) -> str:
    kind, limits = _plain(field.annotation, field.metadata)
    if models := models_in(kind):
        name, inner = next(iter(models[0].model_fields.items()))
        return f"{{{name}: {example(inner)}}}"
    if get_origin(kind) is Literal:
        return str(get_args(kind)[0])
    least = str(limits.get("ge", 1))
    words = {int: least, float: least, bool: "true", str: "TEXT", Path: "FOLDER/FILE"}
    return words.get(kind, "[VALUE]" if get_origin(kind) in (list, tuple) else "{KEY: VALUE}")


def yaml_text(value: Any) -> str:
    """A value as YAML on one line.

    >>> yaml_text([64, 128]), yaml_text(True), yaml_text({"a": 1e11}), yaml_text("cosine")
    ('[64, 128]', 'true', '{a: 1e+11}', 'cosine')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {yaml_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
