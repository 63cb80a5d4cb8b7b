"""A structured model as a program that runs without einsearch: `torch.export` and ONNX."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from einsearch_cli.errors import OutputError, RunFailedError
from einsearch_cli.export.copies import serving_copy
from einsearch_cli.export.placing import place
from einsearch_cli.files import refuse_unwritable

_TOLERANCE = 1e-3
"""Largest difference from the model, relative to the largest output; float32 gives about 1e-6."""

DynamicShapes = tuple[dict[int, Any], ...]
"""For every input the `torch.export.Dim` of each axis whose length may differ from the example's."""


def save_program(
    model: nn.Module, path: Path, example: tuple[Tensor, ...], dynamic_shapes: DynamicShapes | None = None
) -> float:
    """Write a `torch.export` program (.pt2) with the scales folded into the factors, then load it and compare.

    Args:
        model: structured or not; it stays as it is.
        path: the file; `torch.export.load(path).module()` is the model again, without einsearch.
        example: inputs to trace it with.
        dynamic_shapes: axes of other lengths than the example's.

    Returns:
        The largest difference from the model's output on the example, relative to the largest output.

    Raises:
        LayerError: as of `serving_copy`.
        OutputError: if the file cannot be written.
        RunFailedError: if the program does not give what the model gives.
    """
    refuse_unwritable(path, is_stream=False)
    program = _program(model, example, dynamic_shapes)
    written = io.BytesIO()  # where the disk is full, torch's own writer of files ends the process
    torch.export.save(program, written)
    place(path, lambda draft: draft.write_bytes(written.getbuffer()))
    with _quiet(), torch.no_grad():
        found = torch.export.load(path).module()(*example)
    return compare_outputs(model, example, found, path)


def save_onnx(
    model: nn.Module, path: Path, example: tuple[Tensor, ...], dynamic_shapes: DynamicShapes | None = None
) -> float:
    """Write an ONNX model with the scales folded into the factors, then run it in onnxruntime and compare.

    Arguments, result and errors are those of `save_program`. Weights of more than 2 GiB go to a file of
    their own beside it.

    Raises:
        OutputError: also if onnx, onnxscript or onnxruntime are not installed.
    """
    runtime = _onnxruntime()
    refuse_unwritable(path, is_stream=False)
    program = _program(model, example, dynamic_shapes)
    with _quiet():
        onnx_program = torch.onnx.export(program, verbose=False)
    assert onnx_program is not None
    place(path, onnx_program.save)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (found, *_) = session.run(None, {name: value.cpu().numpy() for name, value in zip(names, example, strict=True)})
    return compare_outputs(model, example, torch.from_numpy(found), path)


def _program(model: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: DynamicShapes | None) -> ExportedProgram:
    with _quiet(), torch.no_grad():
        return torch.export.export(serving_copy(model).eval(), example, dynamic_shapes=dynamic_shapes)


@torch.no_grad()
def compare_outputs(model: nn.Module, example: Sequence[Tensor], found: Tensor, path: Path) -> float:
    """The largest difference of an output on the example, relative to the largest; RunFailedError if it is too large."""
    was_training = model.training
    expected = model.eval()(*example)
    model.train(was_training)
    largest = expected.abs().max().item()
    difference = (found.to(expected) - expected).abs().max().item()
    relative: float = difference / largest if largest else difference
    if not relative <= _TOLERANCE:
        raise RunFailedError(
            f"{path} gives outputs that differ from the model's by {relative:.2g} of the largest, more than {_TOLERANCE:g}",
            remedy="convert the model to float32 with .float() and export it again",
        )
    return relative


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"writing ONNX needs onnx, onnxscript and onnxruntime: {error.name} is not installed",
            remedy="pip install 'einsearch[onnx]'",
        ) from error
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves: missing torchvision, their own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
