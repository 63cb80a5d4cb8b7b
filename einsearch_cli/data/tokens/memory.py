"""What was once found out about files, kept until they change."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from einsearch_cli.errors import DataError, OutputError
from einsearch_cli.files import write_atomically

SETTLED_S: Final = 2.0
"""A file changed more recently may change again without a new time stamp: FAT counts in two seconds."""


def remembered(
    cache_folder: Path, kind: str, files: Sequence[Path], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `compute` finds out about files, from the cache folder when size, time and inode of all are as they were.

    Of several processes that ask at once, one computes. A cache folder that cannot be written costs time, no more.

    Args:
        cache_folder: made when missing.
        kind: first part of the file name; say the format's number when what is kept changes.
        files: all that the result depends on, in this order.
        compute: gives plain JSON values.

    Raises:
        DataError: a file is missing or may not be looked at.
    """
    key, settled = _stamps(files)
    path = cache_folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    found = _read(path, key)
    if found is not None:
        return found
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    except OSError:
        return compute()
    with lock:
        found = _read(path, key)  # another process may have finished while this one waited
        if found is None:
            found = compute()
            if settled:
                _keep(path, key, found)
        return found


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


def _read(path: Path, key: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["found"]) if kept["files"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, key: str, found: dict[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps({"files": key, "found": found}))
    except OutputError:
        return
