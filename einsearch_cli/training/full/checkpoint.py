"""Checkpoints: a folder per step that appears whole or not at all, checked when it is read.

RUN/checkpoints/step-00000100/model.safetensors      parameters, guides included while there are any
                              optimizer.safetensors  the optimizer's state and the random state
                              state.json             everything else, with the digests of the other two
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.errors import CheckpointError, OutputError
from einsearch_cli.files import sync_folder, write_atomically, write_error

FOLDER: Final = "checkpoints"
MODEL: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
STATE: Final = "state.json"
KEPT: Final = 2
"""Newest checkpoints that are kept; should the last one be damaged, there is one before."""
FORMAT: Final = 1

GOES_ON: Final = "make room and run the same command again: it goes on from the last checkpoint"
WRITABLE: Final = "make the folder writable and run the same command again: it goes on from the last checkpoint"
"""Remedies against what stops a run in the middle."""

_NAME: Final = re.compile(r"step-(\d{8,})")
_PICKLES: Final = (".pt", ".pth", ".pkl", ".ckpt")
_TORCH_STARTS: Final = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
"""What a file of `torch.save` begins with, now and before torch 1.6; a .bin file may hold anything, tokens too."""
_DRAFT: Final = ".draft-"

if TYPE_CHECKING:  # a folder that is no checkpoint is refused before torch is loaded
    from torch import Tensor

Tensors = dict[str, "Tensor"]
Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a checkpoint knows besides tensors."""

    step: int
    """Updates made."""
    flops: int
    """Training FLOPs so far, without embeddings and head."""
    elapsed_s: float
    """Wall time so far, over all sessions."""
    guided: bool
    """Whether there are guides among the parameters."""
    guide_weight: float
    """a in the last step; 0 without guides."""
    spec: dict[str, Any]
    """`TrainSpec.same_run()`."""
    config: dict[str, Any]
    """Of the transformer."""
    tokenizer: dict[str, Any] | None
    """`Tokenizer.to_json()`."""
    data_digest: str
    """SHA-256 of the tokens."""
    orders: dict[str, str] = field(default_factory=dict)
    """Order of the features of every structured layer; empty in checkpoints of versions without it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    state: RunState
    model: Tensors
    optimizer: Tensors = field(default_factory=dict)


def save_checkpoint(run: Path, state: RunState, model: Tensors, optimizer: Tensors) -> Path:
    """Write a checkpoint beside the earlier ones and remove all but the newest two.

    Files are forced to disk, then the folder is renamed to its name: a process killed at any
    moment leaves the earlier checkpoints as they were.

    Raises:
        OutputError: the disk is full or refuses; earlier checkpoints are untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = run / FOLDER
    target = folder / f"step-{state.step:08d}"
    draft = folder / f"{_DRAFT}{target.name}-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        save_file(model, draft / MODEL)
        save_file(optimizer, draft / OPTIMIZER)
        files = {name: _synced_digest(draft / name) for name in (MODEL, OPTIMIZER)}
        write_atomically(draft / STATE, _state_text(state, files))
        sync_folder(draft)
        if target.exists():  # damaged, or from a run that was started over
            _remove(target)
        os.replace(draft, target)
        sync_folder(folder)
    except (OSError, SafetensorError, OutputError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        cause = error.__cause__ or error if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        kept = ", ".join(path.name for path in checkpoints_of(run)) or "none"
        raise OutputError(
            f"cannot save the checkpoint of step {state.step} in {folder}: {reason}; checkpoints kept: {kept}",
            remedy=write_error(str(folder), cause, full=GOES_ON, otherwise=WRITABLE).remedy,
        ) from cause
    _tidy(folder)
    return target


def _state_text(state: RunState, files: dict[str, str]) -> str:
    content = {"format": FORMAT, "files": files, **asdict(state)}
    return json.dumps({"sha256": _digest_of(content), "content": content}, indent=1) + "\n"


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _synced_digest(path: Path) -> str:
    """SHA-256 of a file that is on disk for good."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """A folder half removed must not look like a checkpoint."""
    doomed = path.with_name(f"{_DRAFT}{path.name}-{secrets.token_hex(4)}")
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove all but the newest checkpoints, and what killed processes left."""
    for path in checkpoints_of(folder.parent)[:-KEPT]:
        _remove(path)
    for path in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    folder = run / FOLDER
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def read_newest(run: Path, warn: Warn, *, with_optimizer: bool = True) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None when it has none at all.

    Args:
        run: folder of the run.
        warn: told of every damaged checkpoint that is passed over.
        with_optimizer: as in `read_checkpoint`.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    problems = []
    for path in reversed(checkpoints_of(run)):
        try:
            return read_checkpoint(path, with_optimizer=with_optimizer)
        except CheckpointError as error:
            problems.append(error)
            warn(f"warning: {error.problem}; going back to the checkpoint before it")
    if problems:
        raise CheckpointError(
            f"no checkpoint in {run / FOLDER} is whole: {problems[0].problem}",
            remedy=f"restore one from a backup, or remove {run / FOLDER} to start over",
        )
    return None


def read_newest_spec(run: Path) -> dict[str, Any] | None:
    """`RunState.spec` of the newest checkpoint whose state is whole, read without torch; None if there is none."""
    for path in reversed(checkpoints_of(run)):
        with suppress(CheckpointError):
            return dict(_read_state(path)["spec"])
    return None


def read_checkpoint(path: Path, *, with_optimizer: bool = True) -> Checkpoint:
    """A checkpoint folder, every byte of it checked.

    Args:
        path: the folder.
        with_optimizer: whether to read the optimizer's tensors, two thirds of the bytes; they are empty if not.

    Raises:
        CheckpointError: it is missing, damaged, or a pickle.
    """
    refuse_pickle(path)
    content = _read_state(path)
    names = (MODEL, OPTIMIZER) if with_optimizer else (MODEL,)
    for name in names:
        _check_file(path / name, content["files"][name])
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    fields = {key: value for key, value in content.items() if key not in ("format", "files")}
    try:
        return Checkpoint(path, RunState(**fields), *(load_file(path / name) for name in names))
    except (TypeError, SafetensorError) as error:
        raise of_other_version(f"checkpoint {path} is not of this version: {str(error)[:100]}") from error


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError for a pickle, or a folder that has one in place of safetensors."""
    found = [path] if _is_pickle(path) else []
    if path.is_dir() and not (path / MODEL).exists():
        found = [file for file in sorted(path.iterdir()) if _is_pickle(file)]
    if found:
        raise CheckpointError(
            f"{found[0]} is a pickle: reading one runs whatever code is in it",
            remedy=f"give a folder with {MODEL} and {STATE}, as `einsearch train` writes it",
        )


def _is_pickle(path: Path) -> bool:
    if path.suffix != ".bin" or not path.is_file():
        return path.suffix in _PICKLES
    try:
        with path.open("rb") as file:
            return file.read(16).startswith(_TORCH_STARTS)
    except OSError:
        return False


def _read_state(path: Path) -> dict[str, Any]:
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
    if content.get("format") != FORMAT:
        raise of_other_version(f"checkpoint {path} has format {content.get('format')}: this version reads {FORMAT}")
    return dict(content)


def of_other_version(problem: str) -> CheckpointError:
    """The error for what is whole, and of another version."""
    return CheckpointError(problem, remedy="use the version of einsearch that wrote it")


def _check_file(path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name}: {error.strerror}", remedy="use the one before it"
        ) from error
    if found != digest:
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} is not what was written (SHA-256 differs)",
            remedy="use the checkpoint before it",
        )
