"""Plug-ins: users' modules that register tasks, optimizers, engines and other things with a register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from einsearch_cli.errors import PluginError

_LOADED: list[str] = []
_TRIED: set[tuple[str, str]] = set()


def load_plugins(names: Iterable[str]) -> None:
    """Import plug-ins, each once per process.

    A process that works for another one loads the `loaded_plugins` of that process.

    Args:
        names: names of modules that Python finds, or paths of files that end in .py; empty ones are skipped.

    Raises:
        PluginError: a plug-in cannot be imported.
    """
    for name in filter(None, names):
        name = str(Path(name).resolve()) if name.endswith(".py") else name
        if name not in _LOADED:
            try:
                _import(name)
            except Exception as error:  # a user's code may raise anything
                raise PluginError(
                    f"plug-in {name} cannot be imported: {type(error).__name__}: {error}",
                    remedy="give the path of a .py file, or the name of an installed module; --traceback shows the line",
                ) from error
            _LOADED.append(name)


def loaded_plugins() -> tuple[str, ...]:
    """The plug-ins that this process has imported, in order; paths are absolute."""
    return tuple(_LOADED)


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """The names that installed packages register, with their entry points of the group `einsearch.GROUP`.

    Nothing is imported.

    Args:
        group: `families`, `tasks`, `optimizers` or `engines`.
    """
    return {point.name: point for point in entry_points(group=f"einsearch.{group}")}


def load_installed(group: str, name: str) -> None:
    """Import the module of an installed package that registers something of this name.

    Raises:
        PluginError: it cannot be imported.
    """
    point = installed(group)[name]
    try:
        point.load()
    except Exception as error:  # a package's code may raise anything
        package = "a package" if point.dist is None else point.dist.name
        raise PluginError(
            f"plug-in {point.value} of {package}, which registers {name!r} in einsearch.{group}, cannot be imported: "
            f"{type(error).__name__}: {error}",
            remedy=f"install another version of {package}, or remove it",
        ) from error


def load_all_installed(group: str, warn: Callable[[str], None]) -> None:
    """Import all modules of a group, each once per process; `warn` gets a message for each that cannot be imported."""
    for name in installed(group):
        if (group, name) not in _TRIED:
            _TRIED.add((group, name))
            try:
                load_installed(group, name)
            except PluginError as error:
                warn(f"warning: {error.problem}; it is left out")


def _import(name: str) -> None:
    if not name.endswith(".py"):
        import_module(name)
        return
    spec = spec_from_file_location(f"einsearch_plugin_{Path(name).stem}", name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up their module there
    spec.loader.exec_module(module)
