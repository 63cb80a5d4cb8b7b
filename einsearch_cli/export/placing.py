"""Moving files that another library writes into place, whole or not at all; refusing before torch is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from einsearch_cli.errors import OutputError, SpecError
from einsearch_cli.files import draft_folder, refuse_unwritable, sync_folder, write_error


def place(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, and perhaps more files, in a temporary folder; then move them to the folder of `path`.

    A link is followed; the file it points to is replaced.

    Args:
        path: the final path of the file.
        write: called with a path of the same name in an empty folder.

    Raises:
        OutputError: the path is anything but a plain file, or the system refuses to write.
    """
    target = refuse_unwritable(path, is_stream=False)
    try:
        with draft_folder(target) as draft:
            write(draft / target.name)
            # The target is moved last: once it exists, so does everything that it refers to.
            for file in sorted(draft.iterdir(), key=lambda file: file.name == target.name):
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                final = refuse_unwritable(target.with_name(file.name), is_stream=False)
                # Permissions are those of the file before or of the folder; some libraries make their files readable by
                # the owner only.
                file.chmod((final if final.exists() else draft).stat().st_mode & 0o666)
                os.replace(file, final)
            sync_folder(target.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch wrap errors of the system
        raise write_error(repr(str(path)), error) from error


def refuse_existing(folder: Path) -> None:
    """Raise OutputError if a run cannot be written there, before anything expensive is computed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"cannot write {str(folder)!r}: it exists already", remedy="give a new folder, or remove this one first"
        )
    if not folder.exists():
        refuse_unwritable(folder, is_stream=False)


def refuse_other_than_safetensors(path: Path) -> None:
    """Raise SpecError for a file that cannot be read, before torch is loaded for it.

    Raises:
        SpecError: if it is not a safetensors file.
    """
    try:
        with safe_open(path, framework="np"):
            return
    except (OSError, SafetensorError) as error:
        raise SpecError(
            f"{path} cannot be read as safetensors: {error}",
            remedy="give a .safetensors file of weights, or the folder of a run of `einsearch train`",
        ) from error
