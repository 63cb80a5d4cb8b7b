"""Packages whose names import their modules on first use, so that a command starts with what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: the names that each of its modules gives; none may be a module of the package itself.

    >>> load = lazy_names("einsearch_cli", {"errors": ("Exit",)})
    >>> load("Exit").OK
    <Exit.OK: 0>
    >>> load("exit")
    Traceback (most recent call last):
    ...
    AttributeError: module 'einsearch_cli' has no attribute 'exit'
    """
    home = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use finds it without coming here
        return value

    return load
