"""Functions that are called as soon as another package is imported, without importing either of them before."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from operator import attrgetter
from types import ModuleType


def after_import(module: str, function: str) -> None:
    """Call a function, given as `module:name`, once: now if the other module is imported already, else afterwards.

    A module without a function name is only imported, which does the work.

    >>> after_import("sys", "this:d.clear")  # doctest: +ELLIPSIS
    The Zen of Python, by Tim Peters
    ...
    """
    if module in sys.modules:
        _call(function)
    else:
        sys.meta_path.insert(0, _Watch(module, function))


def _call(function: str) -> None:
    module, _, name = function.partition(":")
    try:
        imported = import_module(module)
        if name:
            attrgetter(name)(imported)()
    except (
        ImportError,
        AttributeError,
        TypeError,
    ) as error:  # another version of the package: its import must not fail because of us
        warnings.warn(f"einsearch does not work with a package that was imported: {function}: {error}", stacklevel=2)


class _Watch(MetaPathFinder):
    """Finds a module by the other finders, and wraps its loader."""

    def __init__(self, module: str, function: str) -> None:
        self._module, self._function = module, function

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that calls the function; None for other modules."""
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self._function, self)
        return spec


class _Telling(Loader):
    def __init__(self, loader: Loader, function: str, watch: MetaPathFinder) -> None:
        self._loader, self._function, self._watch = loader, function, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the function."""
        assert module.__spec__ is not None
        if self._watch in sys.meta_path:
            sys.meta_path.remove(self._watch)
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _call(self._function)
