"""Modules that are imported on first use, so that a command starts with only what it needs, and optional packages."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from einsearch_cli.errors import EinsearchError


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` (PEP 562) and the `__all__` of a package with lazy names.

    The names are those that its `__init__.py` imports as themselves (`import X as X`), which type checkers treat as
    public.

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
        setattr(sys.modules[package], name, value)  # the next access finds it without this function
        return value

    return load, sorted(home)


def optional_package(module: str, needs: str, remedy: str, kind: type[EinsearchError]) -> Any:
    """Import an optional package; if it is missing, raise an error whose message begins with `needs`.

    >>> from einsearch_cli.errors import OutputError
    >>> optional_package("resvg_pie", "PNG needs the package resvg-pie", "pip install 'einsearch[png]'", OutputError)
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.OutputError: PNG needs the package resvg-pie, which is not installed
    try: pip install 'einsearch[png]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise kind(f"{needs}, which is not installed", remedy=remedy) from error
