"""Read settings from plain values; errors name a setting as the user gave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from einsearch_cli.errors import EinsearchError, RuleError, SpecError, near_name
from einsearch_cli.settings.types import Settings
from einsearch_cli.settings.wording import example, models_in, needed, shown
from einsearch_cli.structures.safe_yaml import Location, YamlDocument


@dataclass(frozen=True, slots=True)
class Given:
    """How a user gave a setting, for messages."""

    name: str
    """Name of the setting: `optimizer.beta1` in a file, `--seeds` on the command line."""
    write: Callable[[str], str]
    """Text that sets another value: `beta1: 0.9`, `--seeds 3`."""
    place: str = ""
    """File and line, with a colon and a space at the end."""
    text: str | None = None
    """The value as it was typed, if known."""
    is_change: bool = False
    """Whether it was given last, as a change to a file's value."""


Origin = Callable[[Location], Given]
"""A function from the location of a setting to how it was given."""

_UNKNOWN: Final = "unknown key"

Model = TypeVar("Model", bound=Settings)


def in_code(location: Location) -> Given:
    """Names of settings that come from Python, or from a file whose lines are not known."""
    keys = [part for part in location if isinstance(part, str)]
    return Given(".".join(keys), lambda value: f"{keys[-1]}: {value}" if keys else value)


def in_document(document: YamlDocument) -> Origin:
    """Names of settings in a YAML document."""

    def given(location: Location) -> Given:
        named = in_code(location)
        return replace(named, place=f"{document.where(location)}: ", text=document.text(location))

    return given


class SettingError(SpecError):
    """A setting that breaks a rule."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that breaks a rule."""

    location: Location
    rule: str
    """The requirement that is broken."""
    remedy: str
    """A value that obeys the rule; if `names` is false, an instruction."""
    has_value: bool = True
    value: Any = None
    names: bool = True
    """Whether the message begins with the setting's name, and the remedy is a value of it."""

    def error(self, origin: Origin) -> SettingError:
        """The error that names the setting as `origin` does."""
        given = origin(self.location)
        problem, remedy = self.rule, self.remedy
        if self.names:
            is_entry = bool(self.location) and isinstance(self.location[-1], int)
            name = f"an entry of {given.name}" if is_entry else given.name
            if self.has_value or given.text is not None:  # null counts as missing
                problem = f"{name} is {shown(self.value, given.text)}: {self.rule}"
            else:
                problem = f"{name} is missing: {self.rule}"
            remedy = given.write(self.remedy)
        elif self.rule is _UNKNOWN:
            problem = f"{self.rule} {given.name[:60]!r}"
        return SettingError(f"{given.place}{problem}", remedy=remedy, keys=(in_code(self.location).name,))


def read_settings(kind: type[Model], values: Mapping[str, Any], origin: Origin = in_code) -> Model:
    """Make settings from plain values.

    Raises:
        SettingError: naming the first value that breaks a rule, the rule, and what to write instead.
        EinsearchError: the kind that the settings raise if they do not fit each other.

    >>> from einsearch_cli.search.spec import HalvingSpec
    >>> read_settings(HalvingSpec, {"factor": 1e1}).factor
    10
    >>> read_settings(HalvingSpec, {"rungs": "two"})
    Traceback (most recent call last):
    ...
    einsearch_cli.settings.reading.SettingError: rungs is 'two': a whole number from 1 to 10 is needed
    try: rungs: 3
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _first_fault(kind, error.errors(include_url=False)).error(origin) from None
    except EinsearchError as error:
        raise _placed(error, kind, values, origin) from None


def _placed(error: EinsearchError, kind: type[BaseModel], values: Mapping[str, Any], origin: Origin) -> EinsearchError:
    """An error of settings that do not fit each other, placed at the one that was changed, or else at the first."""
    owner = _owner(kind, error.keys)
    inner = values.get(owner[0]) if owner else values
    given: list[Location] = [(*owner, key) for key in error.keys if isinstance(inner, Mapping) and key in inner] or [
        owner
    ]
    places = [origin(location) for location in given]
    place = next((one for one in places if one.is_change), places[0]).place
    return type(error)(f"{place}{error.problem}", remedy=error.remedy, keys=error.keys)


def _owner(kind: type[BaseModel], keys: Sequence[str]) -> tuple[str, ...]:
    """The place of the settings with these keys: at the top, or under a key of their own."""
    inside = ((name, model) for name, field in kind.model_fields.items() for model in models_in(field.annotation))
    if set(keys) <= set(kind.model_fields):
        return ()
    return next(((name,) for name, model in inside if set(keys) <= set(model.model_fields)), ())


def _first_fault(kind: type[BaseModel], errors: Sequence[Any]) -> Fault:
    """The first unknown key, since a key that is missing may be misspelt; else the first error."""
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    location, error_type, value = tuple(first["loc"]), first["type"], first["input"]
    owner, field = _field_at(kind, location)
    if error_type == "extra_forbidden":
        return _unknown_key(owner, location)
    if error_type == "missing":
        return Fault(location, "it has no default", example(field), has_value=False)
    broken = first.get("ctx", {}).get("error")
    if isinstance(broken, RuleError):
        return _broken_rule(location, broken, value)
    is_entry = bool(location) and isinstance(location[-1], int)
    rule = needed(field, entry=is_entry, empty=error_type == "too_short")
    return Fault(location, rule, example(field), value=value)


def _unknown_key(kind: type[BaseModel], location: Location) -> Fault:
    known = tuple(kind.model_fields)
    near = near_name(str(location[-1]), known)
    use = f"use {near}; all are " if near else "use one of: "
    return Fault(location, _UNKNOWN, use + ", ".join(known), names=False)


def _broken_rule(location: Location, broken: RuleError, value: Any) -> Fault:
    of_model = isinstance(value, Mapping | BaseModel)
    if broken.key is not None:
        location = (*location, broken.key)
    return Fault(location, str(broken), broken.remedy, value=value, names=not of_model)


def _field_at(kind: type[BaseModel], location: Location) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model to which the last key of a location belongs, and its field if there is one."""
    owner, field = kind, cast(FieldInfo | None, None)
    for part in location:
        if isinstance(part, str):
            inner = models_in(field.annotation) if field else []
            owner = inner[0] if inner else owner
            field = owner.model_fields.get(part)
    return owner, field
