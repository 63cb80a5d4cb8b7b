"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from einsearch_cli.errors import OutputError


def write_atomically(path: str | os.PathLike[str], text: str | bytes) -> None:
    """Write bytes, or text as UTF-8, so that a reader sees the old file or the new one, never a part.

    The text goes to a new file in the same folder, is forced to disk, and takes
    the place of `path` in one rename. A link is followed, so the file it points
    to is replaced. Something that is not a plain file (`/dev/stdout`, a pipe)
    cannot be replaced and is written to directly. Lone surrogates, which Python
    makes of command-line bytes that are not UTF-8, are written as escapes.

    Raises:
        OutputError: the folder is missing, the path is a folder, or the system
            refuses to write; nothing is left behind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a.json", "{}")
    ...     [item.name for item in Path(folder).iterdir()]
    ['a.json']
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", errors="backslashreplace")
    with open_atomically(path) as file:
        file.write(data)


@contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and is gone if it fails.

    Raises:
        OutputError: as `write_atomically`.
    """
    try:
        target = Path(path).resolve()
        refuse_unwritable(target)
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        with _draft(target) as file:
            yield file
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # ValueError: a NUL byte; RuntimeError: a loop of links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: {reason}",
            remedy="give a path in a folder that exists, that you may write to and that has room",
        ) from error


def refuse_unwritable(target: Path) -> None:
    """Say that a file cannot be written there before much is computed for it.

    Raises:
        OutputError: the path is a folder, or in a folder that does not exist.
    """
    if target.is_dir():
        raise OutputError(
            f"cannot write {str(target)!r}: it is a folder, a file is needed",
            remedy=f"give a file name inside it, e.g. {str(target / 'results.json')!r}",
        )
    if not target.parent.is_dir():
        raise OutputError(
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist",
            remedy=f"create it first: mkdir -p {str(target.parent)!r}",
        )


@contextmanager
def _draft(target: Path) -> Iterator[BinaryIO]:
    # Not tempfile: its files are readable by the owner only, and the mode stays after the rename.
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            draft.chmod(target.stat().st_mode & 0o777)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can do that (Windows cannot open a folder)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
