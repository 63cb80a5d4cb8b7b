"""Checkpoints on disk: a folder per step that appears whole or not at all, and is verified when it is read.

FOLDER/step-00000100/NAME.safetensors   tensors, one file or several
                     state.json         everything else, with the digests of the others and of itself
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.errors import CheckpointError, OutputError
from einsearch_cli.files import sync_folder, write_atomically, write_error

STATE: Final = "state.json"
KEPT: Final = 2
"""Checkpoints that are kept; if the last one is damaged, there is an earlier one."""
GOES_ON: Final = "make room and run the same command again: it goes on from the last checkpoint"
WRITABLE: Final = "make the folder writable and run the same command again: it goes on from the last checkpoint"
"""Remedies for errors that stop a run in the middle."""

_NAME: Final = re.compile(r"step-(\d{8,})")
_DRAFT: Final = ".draft-"

if TYPE_CHECKING:  # a folder that is not a checkpoint is refused before torch is loaded
    from torch import Tensor

Tensors = dict[str, "Tensor"]


def save_sealed(folder: Path, step: int, files: Mapping[str, Tensors], content: Mapping[str, Any]) -> Path:
    """Write a checkpoint next to the earlier ones and remove all but the last of these.

    Files are forced to disk, then the folder is renamed to its name: a process killed at any
    moment leaves the earlier checkpoints as they were.

    Args:
        folder: the folder of all checkpoints of a run.
        step: number of updates made.
        files: tensors by the name of their file.
        content: values for JSON, including `format`.

    Raises:
        OutputError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = folder / f"step-{step:08d}"
    draft = draft_of(target)
    try:
        draft.mkdir(parents=True)
        for name, tensors in files.items():
            save_file(tensors, draft / name)
        digests = {name: _synced_digest(draft / name) for name in files}
        write_atomically(draft / STATE, _state_text({**content, "files": digests}))
        place(draft, target)
    except (OSError, SafetensorError, OutputError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        cause = error.__cause__ or error if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        kept = ", ".join(path.name for path in sealed_in(folder)) or "none"
        raise OutputError(
            f"cannot save the checkpoint of step {step} in {folder}: {reason}; checkpoints kept: {kept}",
            remedy=write_error(str(folder), cause, full=GOES_ON, otherwise=WRITABLE).remedy,
        ) from cause
    tidy(target)
    return target


def draft_of(target: Path) -> Path:
    """Name of a neighbouring folder in which a checkpoint is prepared; `tidy` removes what a killed process left."""
    return target.with_name(f"{_DRAFT}{target.name}-{secrets.token_hex(4)}")


def place(draft: Path, target: Path) -> None:
    """Give a checkpoint its name once its files are on disk."""
    sync_folder(draft)
    if target.exists():  # damaged, or from a run that was started again
        _remove(target)
    os.replace(draft, target)
    sync_folder(target.parent)


def _state_text(content: dict[str, Any]) -> str:
    return json.dumps({"sha256": _digest_of(content), "content": content}, indent=1) + "\n"


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _synced_digest(path: Path) -> str:
    """SHA-256 of a file after it was forced to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove a folder in such a way that a half-removed one does not look like a checkpoint."""
    doomed = path.with_name(f"{_DRAFT}{path.name}-{secrets.token_hex(4)}")
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def tidy(newest: Path) -> None:
    """Remove all but a checkpoint and the one before it, including what killed processes left.

    Checkpoints of later steps are removed too. They are damaged or of another version, since the run did not continue
    from them, and would be taken for the newest again and again.
    """
    folder = newest.parent
    known = sealed_in(folder)
    kept = [path for path in known if _step(path) <= _step(newest)][-KEPT:]
    for path in known:
        if path not in kept:
            _remove(path)
    for path in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


def sealed_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(path.name.removeprefix("step-"))


def read_state(path: Path, version: int) -> dict[str, Any]:
    """The contents of a checkpoint except tensors, with the digests of its files under `files`.

    Args:
        path: the folder of the checkpoint.
        version: the number of the format that is read.

    Raises:
        CheckpointError: it is missing, damaged or of another format.
    """
    try:
        document = json.loads((path / STATE).read_text(encoding="utf-8"))
        content, digest = document["content"], document["sha256"]
        whole = _digest_of(content) == digest
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {STATE}: {error.strerror}", remedy="give the folder of a checkpoint"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {STATE} is not what was written", remedy="use the checkpoint before it"
        )
    if content.get("format") != version:
        raise of_other_version(f"checkpoint {path} has format {content.get('format')}: this version reads {version}")
    return dict(content)


def read_tensors(path: Path, name: str, state: Mapping[str, Any]) -> Tensors:
    """The tensors of one file of a checkpoint, verified by the digest in its state.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with (path / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {name}: {error.strerror}", remedy="use the one before it"
        ) from error
    if found != state["files"][name]:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {name} is not what was written (SHA-256 differs)",
            remedy="use the checkpoint before it",
        )
    try:
        return load_file(path / name)
    except SafetensorError as error:
        raise of_other_version(f"checkpoint {path} is not of this version: {str(error)[:100]}") from error


def of_other_version(problem: str) -> CheckpointError:
    """The error for a checkpoint that is whole but of another version."""
    return CheckpointError(problem, remedy="use the version of einsearch that wrote it")
