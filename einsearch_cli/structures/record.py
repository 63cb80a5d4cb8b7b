"""Dataclasses as JSON and back: one rule for everything that outlives a process."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from einsearch_cli.structures.moe import LayerSpec, layer_of_json


class Record:
    """A dataclass that is written as plain data and read back to an equal object.

    Its fields are plain values, records, structures, and tuples or mappings of these. A field missing from a document
    gets its default; unknown keys are ignored.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The record as plain data; `from_json` reads it back to an equal object."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` wrote, in this version or an earlier one."""
        kinds = _kinds(cls)  # type: ignore[arg-type]  # classes can be hashed
        return cls(**{name: _read(kinds[name], value) for name, value in document.items() if name in kinds})


@cache
def _kinds(record: type[Record]) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.to_json() if hasattr(value, "to_json") else value  # a record or a structure


def _read(kind: Any, value: Any) -> Any:
    """Build a value of this type from plain data."""
    inner = get_args(kind)
    if value is None:
        return None
    if NoneType in inner:
        return _read(Union[tuple(part for part in inner if part is not NoneType)], value)  # noqa: UP007
    if kind == LayerSpec:
        return layer_of_json(value)
    if get_origin(kind) is tuple:
        parts = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(map(_read, parts, value))
    return kind.from_json(value) if isinstance(kind, type) and issubclass(kind, Record) else value
