"""Modules by the names that earlier versions gave them, for files that name them: pickled layers do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_MOVED: Final = {  # the first that fits
    "einsearch_cli.layers.moe.fused": "einsearch_cli.swap.fused_experts",
    "einsearch_cli.layers.moe": "einsearch_cli.moe",
    "einsearch_cli.layers.guided": "einsearch_cli.guided",
    "einsearch_cli.layers.swap": "einsearch_cli.swap",
    "einsearch_cli.layers.pointwise": "einsearch_cli.swap.pointwise",
    "einsearch_cli.structures.sizes": "einsearch_cli.sizing.sized",
}


def moved_to(module: str) -> str | None:
    """The name that a module has today; None if it was never renamed.

    >>> moved_to("einsearch_cli.layers.guided.layer"), moved_to("einsearch_cli.layers.merging")
    ('einsearch_cli.guided.layer', None)
    """
    return next((new + module[len(old) :] for old, new in _MOVED.items() if f"{module}.".startswith(f"{old}.")), None)


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name, and gives the one that has the new name: there is no second copy."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """A place for an old name; None for others."""
        return None if moved_to(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        """Create an empty module, which nobody gets to see."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in its place."""
        name = moved_to(module.__name__)
        assert name is not None
        sys.modules[module.__name__] = import_module(name)
