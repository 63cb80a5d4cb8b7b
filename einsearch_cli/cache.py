"""A cache on disk: results are computed once and stored whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from einsearch_cli.errors import DataError, OutputError
from einsearch_cli.files import open_atomically, write_atomically, write_error

if TYPE_CHECKING:
    import numpy.typing as npt

Arrays = dict[str, "npt.NDArray[Any]"]
Found = TypeVar("Found")

SETTLED_S: Final = 2.0
"""Seconds for which a changed file may change again without a new time stamp: FAT counts in two seconds."""
_ELSEWHERE: Final = "make it writable, or set XDG_CACHE_HOME to a folder that is"


def default_cache_folder() -> Path:
    """The default cache folder: `$XDG_CACHE_HOME/einsearch`, or `~/.cache/einsearch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "einsearch"


def computed_once(lock: Path, read: Callable[[], Found | None], compute: Callable[[], Found]) -> Found:
    """Return what `read` finds, or else what `compute` returns and stores for the next `read`.

    If several processes ask at once, one computes and the others wait for it.

    Args:
        lock: file that stands for the result while it is computed; its folder is created if missing.
        read: returns the stored result if it is intact; else None.
        compute: makes the result and stores it by renaming a finished file, so that a killed process leaves no part.

    Raises:
        OSError: the folder cannot be written.
    """
    found = read()
    if found is not None:
        return found
    from filelock import FileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        found = read()  # another process may have finished it while this one waited
        return compute() if found is None else found


def cached_arrays(folder: Path, kind: str, key: Mapping[str, object], compute: Callable[[], Arrays]) -> Arrays:
    """The arrays that `compute` returns, from the cache file of this `kind` and `key` if it is intact.

    A file that is damaged (the archive has checksums), or that belongs to another key, is computed again.

    Args:
        folder: cache folder, created if missing.
        kind: first part of the file name.
        key: everything the arrays depend on; plain JSON values.
        compute: makes the arrays.

    Raises:
        OutputError: the folder cannot be written.
    """
    text, path = _text_of(key), array_file(folder, kind, key)

    def compute_and_keep() -> Arrays:
        import numpy as np

        arrays = compute()
        with open_atomically(path) as stream:
            np.savez(stream, allow_pickle=False, key=np.array(text), **arrays)
        return arrays

    try:
        return computed_once(path.with_suffix(".lock"), lambda: _read_arrays(path, text), compute_and_keep)
    except OSError as error:
        raise write_error(f"cache folder {folder}", error, otherwise=_ELSEWHERE) from error


def array_file(folder: Path, kind: str, key: Mapping[str, object]) -> Path:
    """The file in which `cached_arrays` stores the arrays of a key."""
    return folder / f"{kind}-{hashlib.sha256(_text_of(key).encode()).hexdigest()[:16]}.npz"


def _text_of(key: Mapping[str, object]) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _read_arrays(path: Path, key: str) -> Arrays | None:
    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            return {name: archive[name] for name in archive.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def cached_for_files(
    folder: Path, kind: str, files: Sequence[Path], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The facts about files that `compute` returns, cached while size, time and inode of all files are unchanged.

    If the cache folder cannot be written, this only costs time.

    Args:
        folder: cache folder, created if missing.
        kind: first part of the file name; include the format's number.
        files: all files on which the result depends, in this order.
        compute: returns plain JSON values.

    Raises:
        DataError: a file is missing or may not be looked at.
    """
    key, settled = _stamps(files)
    path = folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def compute_and_keep() -> dict[str, Any]:
        found = compute()
        if settled:
            with suppress(OutputError):
                write_atomically(path, json.dumps({"files": key, "found": found}))
        return found

    try:
        return computed_once(path.with_suffix(".lock"), lambda: _read_found(path, key), compute_and_keep)
    except OSError:
        return compute()


def _read_found(path: Path, key: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["found"]) if kept["files"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamps(files: Sequence[Path]) -> tuple[str, bool]:
    stamps: list[tuple[str, int, int, int]] = []
    now_s = time.time()
    newest_s = 0.0
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}", remedy="check path and permissions") from error
        stamps.append((str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ino))
        newest_s = max(newest_s, status.st_mtime)
    return json.dumps(stamps), now_s - newest_s > SETTLED_S
