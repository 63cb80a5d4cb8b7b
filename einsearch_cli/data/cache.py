"""Arrays that are computed once and kept on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from einsearch_cli.files import open_atomically, write_error

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
_ELSEWHERE: Final = "make it writable, or set XDG_CACHE_HOME to a folder that is"


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/einsearch`, or `~/.cache/einsearch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "einsearch"


def cached_arrays(folder: Path, kind: str, key: Mapping[str, object], compute: Callable[[], Arrays]) -> Arrays:
    """What `compute` gives, from the cache file of this `kind` and `key` when it is there and intact.

    Several processes may ask at once: one computes, the others wait for its file. The file appears by
    renaming a finished one, so a process killed on the way leaves nothing to mistake for data; a damaged
    file (the archive has checksums) or one of another key is computed anew.

    Args:
        folder: cache folder, made when missing.
        kind: first part of the file name.
        key: everything the arrays depend on; plain JSON values.
        compute: makes the arrays.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = json.dumps(dict(key), sort_keys=True)
    path = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    found = _read(path, text)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path, text)  # another process may have finished it while this one waited
            if found is None:
                found = compute()
                _write(path, text, found)
            return found
    except OSError as error:
        raise write_error(f"cache folder {folder}", error, otherwise=_ELSEWHERE) from error


def _read(path: Path, key: str) -> Arrays | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            return {name: archive[name] for name in archive.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, key: str, arrays: Arrays) -> None:
    with open_atomically(path) as stream:
        np.savez(stream, allow_pickle=False, key=np.array(key), **arrays)
