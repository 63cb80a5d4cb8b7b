"""YAML 1.2 from untrusted sources: plain data only, with limits, and with line numbers and texts for error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from einsearch_cli.errors import SpecError
from einsearch_cli.structures.scalars import core_scalar

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 50_000
_KEYS = "write keys with values, such as structures: [monarch, btt:r=2]"
"""The most nodes of a document, with aliases expanded: a 'billion laughs' file is refused before it is built."""

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and the line of every part of it."""

    source: str
    data: Any
    typed: Any
    """A copy of `data` in which every scalar is the text that was typed: `1e-9`, `010`, `null`."""
    lines: dict[Location, int]

    def where(self, location: Location) -> str:
        """`file:line` of the innermost part of the location that exists."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.source}:{self.lines.get(location, 1)}"

    def text(self, location: Location) -> str | None:
        """The scalar at a location as it was typed; None where there is no scalar."""
        found = self.typed
        for part in location:
            try:
                found = found[part]
            except (LookupError, TypeError):
                return None
        return found if isinstance(found, str) else None


_PLAIN_TAG: Final = "plain"
"""The tag given to scalars that have neither quotes nor a tag of their own."""
_TAGS: Final = {f"tag:yaml.org,2002:{name}": name for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_KINDS: Final = {"null": type(None), "bool": bool, "int": int, "float": float}


class _Composer(yaml.SafeLoader):
    """Builds the tree of nodes; `core_scalar` decides what their scalars mean, not YAML 1.1."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  as in the class above it


_Composer.add_implicit_resolver(_PLAIN_TAG, re.compile(""), None)


def load_yaml_file(path: Path) -> YamlDocument:
    """Read one YAML file; SpecError if it cannot be read, is too large or deep, or is not plain YAML."""
    return load_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a specification file, refused if it is missing, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise SpecError(
                f"{path} has more than {MAX_BYTES} bytes: a specification may have {MAX_BYTES}",
                remedy="split the file",
            )
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise SpecError(
            f"cannot read {path}: {error.strerror}", remedy=f"check the path; the current folder is {os.getcwd()}"
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is not UTF-8 (byte {error.start}): specifications must be UTF-8 text", remedy="re-save it as UTF-8"
        ) from error


def load_yaml(text: str, source: str) -> YamlDocument:
    """Parse YAML text of at most `MAX_NODES` nodes and `MAX_DEPTH` levels, without duplicate keys.

    Scalars are those of the core schema of YAML 1.2; keys are always text.

    Raises:
        SpecError: naming the line where the text is not plain YAML.

    >>> load_yaml("a: [1, 010, no]", "x.yaml").data
    {'a': [1, 10, 'no']}
    """
    loader: _Composer | None = None
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
        if node is None:
            raise SpecError(f"{source} is empty: a specification must have content", remedy=_KEYS)
        lines: dict[Location, int] = {}
        _check_tree(node, source)
        _check_keys(node, (), lines, source)
        data = _build(node, lambda scalar: _value(scalar, source))
        typed = _build(node, lambda scalar: scalar.value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(
            f"{source}{line}: not valid YAML: {problem}",
            remedy="check indentation and quotes there: one key a line, as in seeds: 3",
        ) from error
    except (RecursionError, ValueError) as error:
        raise SpecError(
            f"{source}: not readable as YAML: {str(error)[:80] or 'nested too deeply'}",
            remedy=f"write it with at most {MAX_DEPTH} levels of lists and mappings",
        ) from error
    finally:
        if loader is not None:
            loader.dispose()
    return YamlDocument(source, data, typed, lines)


def _check_tree(root: yaml.Node, source: str) -> None:
    """Count nodes, with aliases expanded, and levels before anything is built."""
    seen = 0
    stack: list[tuple[yaml.Node, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_NODES:
            what = (
                f"more than {MAX_DEPTH} levels"
                if depth > MAX_DEPTH
                else f"more than {MAX_NODES} values (aliases expanded)"
            )
            raise SpecError(
                f"{source}:{_line(node)}: {what}: too large for a specification",
                remedy="write it without aliases, or as several files",
            )
        if node.tag not in _TAGS and node.tag != _PLAIN_TAG:
            shown = node.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            raise SpecError(
                f"{source}:{_line(node)}: the tag {shown!r}: a specification holds plain values, lists and mappings",
                remedy="leave the tag out",
            )
        if isinstance(node, yaml.MappingNode):
            stack += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += [(child, depth + 1) for child in node.value]


def _check_keys(node: yaml.Node, location: Location, lines: dict[Location, int], source: str) -> None:
    lines[location] = _line(node)
    if isinstance(node, yaml.SequenceNode):
        for position, child in enumerate(node.value):
            _check_keys(child, (*location, position), lines, source)
    if not isinstance(node, yaml.MappingNode):
        return
    keys: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is None or name == "<<":
            raise SpecError(f"{source}:{_line(key)}: keys must be plain words", remedy=_KEYS)
        if name in keys:
            raise SpecError(
                f"{source}:{_line(key)}: key {name!r} occurs twice: a key may occur only once",
                remedy="remove one of the two",
            )
        keys.add(name)
        _check_keys(value, (*location, name), lines, source)
        lines[(*location, name)] = _line(key)


def _build(node: yaml.Node, read: Callable[[yaml.ScalarNode], Any]) -> Any:
    """Build lists, mappings with text as keys, and what `read` makes of scalars."""
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, read) for child in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key.value: _build(value, read) for key, value in node.value}
    assert isinstance(node, yaml.ScalarNode)
    return read(node)


def _value(node: yaml.ScalarNode, source: str) -> Any:
    """The value of a scalar by its text, or by its quotes or tag where it has them."""
    kind = _TAGS.get(node.tag)
    if kind == "str":
        return node.value
    value = core_scalar(node.value)
    if kind is None or _KINDS.get(kind) is type(value):
        return value
    if kind == "float" and type(value) is int:
        return float(value)
    raise SpecError(
        f"{source}:{_line(node)}: {node.value[:40]!r} is not of the type {kind} that its tag gives it",
        remedy=f"leave !!{kind} out",
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
