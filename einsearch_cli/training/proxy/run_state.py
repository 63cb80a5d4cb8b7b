"""The state of a proxy run on disk, from which it continues exactly.

FOLDER/step-00000100/state.safetensors   all tensors of the state
                     state.json          everything else, and whose state it is (`training.sealed`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from einsearch_cli.errors import CheckpointError
from einsearch_cli.training.sealed import Tensors, of_other_version, read_state, read_tensors, save_sealed, sealed_in
from einsearch_cli.version import __version__

FORMAT: Final = 1
TENSORS: Final = "state.safetensors"
_TENSOR, _TUPLE, _PAIRS = "tensor", "tuple", "pairs"
"""Kinds of values that JSON lacks; each is an object with one of these keys."""


def save_run_state(folder: Path, whose: str, step: int, state: Mapping[str, Any]) -> None:
    """Write the state of a run next to its earlier one.

    Args:
        folder: of this run alone.
        whose: text that is equal for runs that train the same.
        step: number of updates made.
        state: tensors, plain values, and lists, tuples and dicts of them.

    Raises:
        OutputError: the disk is full or cannot be written; the earlier state is untouched.
    """
    tensors: Tensors = {}
    content = {"format": FORMAT, "program": _program(), "whose": whose, "state": _packed(state, tensors)}
    save_sealed(folder, step, {TENSORS: tensors}, content)


def read_run_state(folder: Path, whose: str, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole state of a run; None if it has to start from its first step.

    Args:
        folder: of this run alone.
        whose: the text with which the state was saved.
        warn: called with a line if there are states and the newest cannot be used.
    """
    problems, found = [], None
    for path in reversed(sealed_in(folder)):
        try:
            found = _read(path, whose)
            break
        except CheckpointError as error:
            problems.append(error.problem)
    if problems:
        way_out = "the run begins again" if found is None else "the run goes on from the checkpoint before it"
        warn(f"{problems[0]}; {way_out}")
    return found


def _read(path: Path, whose: str) -> dict[str, Any]:
    document = read_state(path, FORMAT)
    if document.get("program") != _program():
        raise of_other_version(f"checkpoint {path} was written by {document.get('program')}, and this is {_program()}")
    if document["whose"] != whose:
        raise CheckpointError(f"checkpoint {path} is of another run", remedy="remove it")
    state: dict[str, Any] = _unpacked(document["state"], read_tensors(path, TENSORS, document))
    return state


def _program() -> str:
    """The versions that must be the same for a run to continue exactly."""
    return f"einsearch {__version__} with torch {torch.__version__}"


def _packed(value: Any, tensors: Tensors) -> Any:
    """The value as JSON; its tensors are added to `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, tuple):
        return {_TUPLE: [_packed(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {_PAIRS: [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    return [_packed(item, tensors) for item in value] if isinstance(value, list) else value


def _unpacked(value: Any, tensors: Tensors) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == _TENSOR:
        return tensors[content]
    if kind == _TUPLE:
        return tuple(_unpacked(item, tensors) for item in content)
    return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in content}
