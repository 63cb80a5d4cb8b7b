"""Checkpoints: a folder per step that appears whole or not at all, checked when it is read.

RUN/checkpoints/step-00000100/model.safetensors      parameters, guides included while there are any
                              optimizer.safetensors  the optimizer's state and the random state
                              state.json             everything else, with the digests of the other two
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import CheckpointError
from einsearch_cli.training.sealed import (
    STATE,
    Tensors,
    of_other_version,
    read_state,
    read_tensors,
    save_sealed,
    sealed_in,
)

FOLDER: Final = "checkpoints"
MODEL: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
FORMAT: Final = 1

_PICKLES: Final = (".pt", ".pth", ".pkl", ".ckpt")
_TORCH_STARTS: Final = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
"""First bytes of files by `torch.save`, before and since torch 1.6; a .bin file may hold anything, even tokens."""

Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The part of a checkpoint that is not tensors."""

    step: int
    """Number of updates made."""
    flops: int
    """Training FLOPs so far, without embeddings and head."""
    elapsed_s: float
    """Wall time so far, over all sessions."""
    guided: bool
    """Whether guides are among the parameters."""
    guide_weight: float
    """The guides' mixing weight a in the last step; 0 without guides."""
    spec: dict[str, Any]
    """The result of `TrainSpec.same_run()`."""
    config: dict[str, Any]
    """Settings of the transformer."""
    tokenizer: dict[str, Any] | None
    """The result of `Tokenizer.to_json()`."""
    data_digest: str
    """SHA-256 of the tokens."""
    orders: dict[str, str] = field(default_factory=dict)
    """Order of the features of every structured layer; empty in checkpoints of versions without it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read completely and is undamaged."""

    path: Path
    state: RunState
    model: Tensors
    optimizer: Tensors = field(default_factory=dict)


def save_checkpoint(run: Path, state: RunState, model: Tensors, optimizer: Tensors) -> Path:
    """Write a checkpoint next to the earlier ones and remove all but the last of these (`save_sealed`).

    Raises:
        OutputError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    files = {MODEL: model, OPTIMIZER: optimizer}
    return save_sealed(run / FOLDER, state.step, files, {"format": FORMAT, **asdict(state)})


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sealed_in(run / FOLDER)


def read_newest(run: Path, warn: Warn, *, with_optimizer: bool = True) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None if the run has no checkpoint.

    Args:
        run: folder of the run.
        warn: called with a line for every damaged checkpoint that is skipped.
        with_optimizer: as in `read_checkpoint`.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
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
            return dict(read_state(path, FORMAT)["spec"])
    return None


def read_checkpoint(path: Path, *, with_optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint folder and verify every byte of it.

    Args:
        path: the folder.
        with_optimizer: whether to read the optimizer's tensors, two thirds of the bytes; they are empty if not.

    Raises:
        CheckpointError: it is missing, damaged, or a pickle.
    """
    refuse_pickle(path)
    content = read_state(path, FORMAT)
    names = (MODEL, OPTIMIZER) if with_optimizer else (MODEL,)
    fields = {key: value for key, value in content.items() if key not in ("format", "files")}
    try:
        return Checkpoint(path, RunState(**fields), *(read_tensors(path, name, content) for name in names))
    except TypeError as error:
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
