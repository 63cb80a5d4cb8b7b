"""Modules that are imported on first use, so that a command starts with only what it needs, and optional packages."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
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
    >>> load("EinsumLinear")
    Traceback (most recent call last):
    ...
    ImportError: 'EinsumLinear' is not in einsearch_cli.generation
    try: from einsearch_cli.layers import EinsumLinear
    """
    home = _names(package, Path(file))

    def load(name: str) -> Any:
        if name not in home:
            is_module = any(Path(file).parent.glob(f"{name}.*")) or Path(file).with_name(name).is_dir()
            # An AttributeError would lose its text in `from … import …`.
            if not is_module and (other := _home_elsewhere(name)):
                raise ImportError(f"{name!r} is not in {package}\ntry: from {other} import {name}")
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # the next access finds it without this function
        return value

    return load, sorted(home)


def _names(package: str, file: Path) -> dict[str, str]:
    """The public names of a package's `__init__.py`, with the modules that define them."""
    return {
        alias.name: str(node.module)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")
        for alias in node.names
        if alias.asname == alias.name
    }


@cache
def _home_elsewhere(name: str) -> str | None:
    """The package of ours that has a public name, such as one that an earlier version had in another package."""
    if name.startswith("_"):
        return None
    root = Path(__file__).parent
    packages = {f"{root.name}.{file.parent.name}": file for file in sorted(root.glob("*/__init__.py"))}
    return next((package for package, file in packages.items() if name in _names(package, file)), None)


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
