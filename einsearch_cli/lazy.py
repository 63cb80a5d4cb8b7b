"""Packages whose names import their modules on first use, so that a command starts with what it needs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` (PEP 562) and the `__all__` of a package.

    The names are those that its `__init__.py` imports `as` themselves, which type checkers take for a promise.

    Args:
        package: its `__name__`; none of the names may be a module of the package itself.
        file: its `__file__`.

    >>> import einsearch_cli.generation as package
    >>> load, names = lazy_names(package.__name__, package.__file__)
    >>> load("IdCodec").__name__, "IdCodec" in names
    ('IdCodec', True)
    >>> load("codex")
    Traceback (most recent call last):
    ...
    AttributeError: module 'einsearch_cli.generation' has no attribute 'codex'
    """
    home: dict[str, str] = {
        alias.name: str(node.module)
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")
        for alias in node.names
        if alias.asname == alias.name
    }

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # the next use finds it without coming here
        return value

    return load, sorted(home)
