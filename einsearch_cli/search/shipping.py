"""Everything that the runs of a study need on another machine: plug-ins and data."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from einsearch_cli.cache import computed_once, default_cache_folder
from einsearch_cli.errors import StudyError
from einsearch_cli.files import draft_folder, open_atomically, write_error
from einsearch_cli.search.job import TrialSetup

PIECE_BYTES: Final = 64 << 20
"""Bytes of a piece of a file, so that a node needs no more memory for a large file."""


@dataclass(frozen=True, slots=True)
class ShippedFile:
    """A file on the study's machine."""

    name: str
    """Name of the file in the folder of the copy."""
    path: str
    """Absolute path on the study's machine."""
    size: int
    changed_ns: int

    @classmethod
    def of(cls, name: str, path: Path) -> ShippedFile:
        """Describe an existing file."""
        status = path.stat()
        return cls(name, str(path.resolve()), status.st_size, status.st_mtime_ns)

    def is_here(self) -> bool:
        """Whether this machine has the same file in the same place, as on a shared disk."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.changed_ns)

    def pieces(self) -> Iterator[bytes]:
        """The file's content in pieces."""
        with open(self.path, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


@dataclass(frozen=True, slots=True)
class Shipment:
    """A setup with all files that it names; small, as it does not include their contents."""

    setup: TrialSetup
    plugins: tuple[ShippedFile, ...]
    data: tuple[ShippedFile, ...]
    versions: Mapping[str, str]
    """Versions of the packages on which losses depend."""

    @property
    def folder_name(self) -> str:
        """A name that is equal for equal files."""
        identity = repr([(file.name, file.path, file.size, file.changed_ns) for file in (*self.plugins, *self.data)])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


Fetch = Callable[[ShippedFile], Iterator[bytes]]
"""A function that returns the content of a file from the study's machine."""


def versions() -> dict[str, str]:
    """The versions of einsearch and torch here."""
    from importlib.metadata import version

    return {name: version(name).partition("+")[0] for name in ("einsearch", "torch")}


def pack_up(setup: TrialSetup) -> Shipment:
    """List what another machine needs for this setup; the data are prepared first.

    Raises:
        DataError: the data cannot be read.
    """
    from einsearch_cli.plugins import load_plugins
    from einsearch_cli.tasks import open_task

    load_plugins(setup.plugins)
    task = open_task(setup.task, setup.task_settings)
    task.prepare()
    data = tuple(ShippedFile.of(name, path) for name, path in sorted(task.data_files().items()))
    files = [name for name in setup.plugins if name.endswith(".py")]
    plugins = tuple(
        ShippedFile.of(f"plugins/{number}/{Path(name).name}", Path(name)) for number, name in enumerate(files)
    )
    return Shipment(setup, plugins, data, versions())


def unpack(shipment: Shipment, fetch: Fetch) -> TrialSetup:
    """The setup for this machine; missing files are fetched once and kept in the cache folder.

    Raises:
        StudyError: versions here differ from those on the study's machine.
        OutputError: the cache folder cannot be written.
    """
    _check_versions(shipment.versions)
    files = (*shipment.plugins, *shipment.data)
    if all(file.is_here() for file in files):
        folders = {str(Path(file.path).parent) for file in shipment.data}
        return replace(shipment.setup, data_folder=folders.pop() if len(folders) == 1 else None)
    folder = default_cache_folder() / "shipped" / shipment.folder_name

    def fetch_all() -> bool:
        with draft_folder(folder) as draft:
            for file in files:
                (draft / file.name).parent.mkdir(parents=True, exist_ok=True)
                with open_atomically(draft / file.name) as copy:
                    copy.writelines(fetch(file))
            draft.rename(folder)
        return True

    try:
        computed_once(folder.with_suffix(".lock"), lambda: folder.is_dir() or None, fetch_all)
    except OSError as error:
        raise write_error(f"cache folder {folder}", error) from error
    copies = {file.path: str(folder / file.name) for file in shipment.plugins}
    plugins = tuple(copies.get(name, name) for name in shipment.setup.plugins)
    return replace(shipment.setup, plugins=plugins, data_folder=str(folder) if shipment.data else None)


def _check_versions(theirs: Mapping[str, str]) -> None:
    ours = versions()
    other = next((name for name in theirs if theirs[name] != ours[name]), None)
    if other is not None:
        raise StudyError(
            f"node {platform.node()} has {other} {ours[other]}, and the machine of the study {theirs[other]}: losses of both "
            "cannot be compared",
            remedy=f"pip install '{other}=={theirs[other]}' on every node",
        )
