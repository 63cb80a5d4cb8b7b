"""Registers: open sets of named things, one file each, to which plug-ins add."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar

from einsearch_cli.errors import PluginError, RuleError, SpecError, near_name, near_or_all
from einsearch_cli.plugins import installed, load_installed

Entry = TypeVar("Entry")


def add_once(nouns: str, known: dict[str, Entry], name: str, entry: Entry) -> Entry:
    """Add a thing of some kind, such as 'families', to the known ones by name.

    Raises:
        ValueError: another one has that name.
    """
    if name in known:
        raise ValueError(f"two {nouns} are named {name!r}")
    known[name] = entry
    return entry


class Register(Generic[Entry]):
    """Things of one kind by name, from a package's files, from installed packages and from plug-ins.

    A file, or the module of an installed package, is imported when its thing is first needed; names are known without
    that. It adds the thing under its own name.

    Args:
        noun: the word for one of them, such as `optimizer`.
        package: name of the package with the files.
        path: folders of the package.
    """

    def __init__(self, noun: str, package: str, path: Iterable[str]) -> None:
        self.entries: dict[str, Entry] = {}
        """Things that have been added so far."""
        self._noun = noun
        self._package = package
        self._path = list(path)

    def add(self, entry: Entry) -> Entry:
        """Add a thing under its `name`; also works as a decorator of classes.

        Raises:
            ValueError: another one has that name.
        """
        name = str(getattr(entry, "name"))  # noqa: B009  # of a class or of an instance
        if name in self._files() and entry.__module__ != f"{self._package}.{name}":
            raise ValueError(f"two {self._noun}s are named {name!r}")
        return add_once(f"{self._noun}s", self.entries, name, entry)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._files() | set(self.entries) | set(installed(self._group))))

    def check(self, name: str) -> str:
        """Return a name if it is known, for settings; else raise an error."""
        if name not in self.names():
            raise RuleError(f"the {self._noun}s are {', '.join(self.names())}", remedy=near_or_all(name, self.names()))
        return name

    def find(self, name: str) -> Entry:
        """Find the thing of this name."""
        try:
            self.check(name)
        except RuleError as error:
            near = near_name(name, self.names())
            raise SpecError(
                f"no {self._noun} is named {name[:60]!r}: {error}",
                remedy=f"use {near or 'one of these, or give the file that registers it: --plugin FILE.py'}",
            ) from None
        if name in self.entries:
            return self.entries[name]
        if name in self._files():
            import_module(f"{self._package}.{name}")
        else:
            load_installed(self._group, name)
            if name not in self.entries:
                point = installed(self._group)[name]
                raise PluginError(
                    f"plug-in {point.value} was imported for the {self._noun} {name!r} and registers none of that name",
                    remedy=f"register it under the name of its entry point in einsearch.{self._group}",
                )
        return self.entries[name]

    @property
    def _group(self) -> str:
        return f"{self._noun}s"

    def _files(self) -> set[str]:
        return {module.name for module in iter_modules(self._path)}
