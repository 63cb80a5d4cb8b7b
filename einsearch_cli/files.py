"""All outputs are written here: whole or not at all, and never in place of a device.

A plain file is replaced by its finished successor in one rename; a link is followed; missing folders are made. Text and
tables also flow into a pipe or a character device, such as `/dev/stdout`. Anything else is refused and stays unchanged.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from einsearch_cli.errors import OutputError

ROOM: Final = "make room and run the same command again: nothing is lost"
"""The remedy for a full disk."""
_OTHERWISE: Final = "give a path in a folder that you may write to"
_REMEDIES: Final = {
    errno.EROFS: "give a path on a file system that can be written",
    errno.EIO: "check the disk, or give a path on another one",
    errno.ENAMETOOLONG: "give a shorter name",
}
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_DRAFT: Final = re.compile(r"\..*\.[0-9a-f]{12}\.einsearch-draft", re.DOTALL)
_WRAPPED: Final = re.compile(r"os error (\d+)|Errno (\d+)")
_LINKS: Final = 40
"""Links that are followed before a path counts as a loop, as in Linux."""
_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def write_atomically(path: str | os.PathLike[str], text: str | bytes) -> None:
    """Write bytes, or text as UTF-8, so that a reader sees the old file or the new one, never a part.

    Lone surrogates, which Python makes of command-line bytes that are not UTF-8, are written as escapes.

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
    """A binary file that replaces `path` when the block ends, and disappears if the block fails.

    The content goes to a draft in the same folder, is forced to disk, and takes the place of `path` in one rename.
    A pipe or a character device is written to directly.

    Raises:
        OutputError: the path is a folder, a block device or a socket, or the system cannot write;
            nothing is left behind.
    """
    try:
        target = refuse_unwritable(path)
        handle = _open_stream(Path(path), target)
        if handle is not None:
            with os.fdopen(handle, "wb") as stream:
                yield stream
            return
        with _locked_draft(target, is_folder=False) as (draft, lock):
            with os.fdopen(os.dup(lock), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                draft.chmod(target.stat().st_mode & 0o777)
            os.replace(draft, target)
        sync_folder(target.parent)
    except BrokenPipeError:  # the reader closed the pipe
        raise
    except OSError as error:
        raise write_error(repr(os.fspath(path)), error) from error


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """An empty folder next to `target` in which to prepare it; it is removed after the block unless it was renamed."""
    with _locked_draft(target, is_folder=True) as (draft, _):
        yield draft


def refuse_unwritable(path: str | os.PathLike[str], *, is_stream: bool = True) -> Path:
    """Raise OutputError if a file cannot be written, before anything expensive is computed for it.

    Args:
        path: path of the file.
        is_stream: whether a pipe or a character device is allowed.

    Returns:
        The path with links followed.

    Raises:
        OutputError: the path is a folder or something else that is not a plain file, or its folder cannot be written.
    """
    try:
        target = Path(path).resolve()
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
        above = next((folder for folder in target.parents if folder.exists()), target)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte; a loop of links
        raise write_error(repr(os.fspath(path)), error) from error
    if stat.S_ISDIR(mode):
        raise OutputError(
            f"cannot write {str(target)!r}: it is a folder, a file is needed",
            remedy=f"give a file name inside it, e.g. {str(target / 'result')!r}",
        )
    is_open = _descriptor(Path(path)) is not None
    streams = (stat.S_IFIFO, stat.S_IFCHR) if is_stream else ()
    if (is_open and not is_stream) or (not stat.S_ISREG(mode) and stat.S_IFMT(mode) not in streams):
        kind = "an open stream" if is_open else _KINDS.get(stat.S_IFMT(mode), "not a file")
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: it is {kind}, a plain file is needed", remedy="give the name of a file"
        )
    if is_open:
        return target
    if (link := _dangling(Path(path))) is not None and not target.parent.is_dir():
        missing = str(target.parent)
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: the folder is missing that the link {str(link)!r} leads to, {missing!r}",
            remedy="make the folder that the link leads to, or remove the link",
        )
    if not above.is_dir():
        raise OutputError(
            f"cannot write {str(target)!r}: {str(above)!r} is not a folder", remedy="give a path in a folder"
        )
    if stat.S_ISREG(mode) and not os.access(above, os.W_OK | os.X_OK):
        raise write_error(repr(os.fspath(path)), OSError(_why_not(above), os.strerror(_why_not(above))))
    return target


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device, such as `/dev/stdout`, which is written to directly."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(repr(str(folder)), error) from error


def write_error(what: str, error: BaseException, *, full: str = ROOM, otherwise: str = _OTHERWISE) -> OutputError:
    """The error for a failed write, with the system's reason and a remedy for it.

    Args:
        what: what was to be written, in words for the message.
        error: error of the system, or of a library that wraps it.
        full: remedy for a full disk.
        otherwise: remedy for errors without their own.

    >>> write_error("'a.json'", OSError(errno.ENOSPC, "No space left on device")).remedy
    'make room and run the same command again: nothing is lost'
    """
    number = _number_of(error)
    reason = os.strerror(number) if number else str(error).partition("\n")[0]
    if number == errno.EEXIST:  # making a folder: an existing one would be fine
        reason = "it is not a folder"
    remedy = _REMEDIES.get(number, otherwise)
    return OutputError(f"cannot write {what}: {reason}", remedy=full if number in _FULL else remedy)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable, if the system can do that (Windows cannot open a folder)."""
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


def _dangling(path: Path) -> Path | None:
    """The part of a path that is a link to nothing."""
    return next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)


def _number_of(error: BaseException) -> int:
    """The system's number of an error, or 0; libraries in Rust and Python may give it only in the text."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _WRAPPED.search(str(error))
    return int(found[1] or found[2]) if found else 0


def _why_not(folder: Path) -> int:
    """The system's number for why a folder cannot be written; read-only file systems refuse root too."""
    return errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES


def _open_stream(path: Path, target: Path) -> int | None:
    """A descriptor for writing directly; None for a plain file or a new one."""
    descriptor = _descriptor(path)
    if descriptor is not None:  # opening it by name would truncate it and write from its start
        return os.dup(descriptor)
    if target.exists() and not target.is_file():
        return os.open(target, os.O_WRONLY)
    return None


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file behind a path such as /dev/stdout or /dev/fd/3."""
    own = (Path(f"/proc/{os.getpid()}/fd"), Path("/dev/fd"))
    for _ in range(_LINKS):
        folder = path.parent.resolve()
        if folder in own and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = folder / path.readlink()
    return None


@contextmanager
def _locked_draft(target: Path, *, is_folder: bool) -> Iterator[tuple[Path, int]]:
    """A draft next to `target` and its descriptor, locked as long as this process works on it.

    The system releases the lock of a process that dies, however it dies. So a draft that can be locked has no writer.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_drafts(target.parent)
    draft, lock = _new_draft(target, is_folder)
    while not _is_mine(draft, lock):  # another process took it for a dead one just before the lock
        os.close(lock)
        draft, lock = _new_draft(target, is_folder)
    try:
        yield draft, lock
    finally:
        _remove(draft)
        os.close(lock)


def _new_draft(target: Path, is_folder: bool) -> tuple[Path, int]:
    # Not tempfile: its files are readable only by their owner, and keep this mode after the rename.
    stem = os.fsdecode(os.fsencode(target.name)[:100])
    draft = target.with_name(f".{stem}.{secrets.token_hex(6)}.einsearch-draft")
    if is_folder:
        draft.mkdir()
        return draft, os.open(draft, os.O_RDONLY)
    return draft, os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _is_mine(draft: Path, lock: int) -> bool:
    try:
        _lock(lock)
    except BlockingIOError:
        return False
    except OSError:  # without locks, no draft is taken for a dead one either
        return True
    try:
        return os.path.samestat(os.fstat(lock), draft.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> None:
    """Take the lock of an open file; OSError if another process has it or the system has no locks.

    Windows and some network drives have no locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from error
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_dead_drafts(folder: Path) -> None:
    """Remove what killed writers left in a folder, whatever they were writing."""
    with suppress(OSError), os.scandir(folder) as entries:
        for draft in [Path(entry.path) for entry in entries if _DRAFT.fullmatch(entry.name)]:
            _remove_if_dead(draft)


def _remove_if_dead(draft: Path) -> None:
    with suppress(OSError):
        handle = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _lock(handle)
            _remove(draft)
        finally:
            os.close(handle)


def _remove(draft: Path) -> None:
    """Remove a draft, if it is still there."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
