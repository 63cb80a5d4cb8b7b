"""A structured model as a program that runs without einsearch: `torch.export` and ONNX."""

from __future__ import annotations

import inspect
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from einsearch_cli.errors import EinsearchError, LayerError, OutputError, RunFailedError
from einsearch_cli.export.copies import serving_copy
from einsearch_cli.export.placing import place
from einsearch_cli.files import refuse_unwritable

_TOLERANCE = 1e-3
"""Largest difference from the model, relative to the largest output; float32 gives about 1e-6."""

Example = tuple[Tensor, ...] | Mapping[str, Tensor]
"""Inputs in their order, or by the argument names of `forward`."""
Axes = dict[int, Any]
"""The `torch.export.Dim` of each axis whose length may differ from the example's."""
DynamicShapes = tuple[Axes, ...] | Mapping[str, Axes]
"""The axes for every input, in the form of the example."""


def save_program(model: nn.Module, path: Path, example: Example, dynamic_shapes: DynamicShapes | None = None) -> float:
    """Write a `torch.export` program (.pt2) with the scales folded into the factors, then load it and compare.

    For a model of transformers, the program returns the first output, such as logits, without a cache of keys and
    values. In layers of experts, every token is computed separately: by all experts if they are structured, else by
    copies of the matrices that it uses.

    Args:
        model: a model, structured or not; it stays unchanged.
        path: the file; `torch.export.load(path).module()` is the model again, without einsearch. It takes the
            inputs in the order of the example, without names.
        example: inputs to trace it with.
        dynamic_shapes: axes of other lengths than the example's.

    Returns:
        The largest difference from the model's output on the example, relative to the largest output.

    Raises:
        LayerError: as in `serving_copy`, and for a model that torch cannot trace.
        OutputError: if the file cannot be written.
        RunFailedError: if the program's outputs differ from the model's.
    """
    refuse_unwritable(path, is_stream=False)
    called, inputs, axes = _called(model, example, dynamic_shapes)
    program = _program(called, inputs, axes)
    written = io.BytesIO()  # torch's own writer of files ends the process if the disk is full
    torch.export.save(program, written)
    place(path, lambda draft: draft.write_bytes(written.getbuffer()))
    with _quiet(), torch.no_grad():
        found = torch.export.load(path).module()(*inputs)
    return compare_outputs(called, inputs, found, path)


def save_onnx(model: nn.Module, path: Path, example: Example, dynamic_shapes: DynamicShapes | None = None) -> float:
    """Write an ONNX model with the scales folded into the factors, then run it in onnxruntime and compare.

    Arguments, result and errors are those of `save_program`. Weights of more than 2 GiB go to a separate file next to
    it. The inputs of a model of transformers have the names of its arguments, such as `input_ids`.

    Raises:
        LayerError: also for an operation that ONNX does not have.
        OutputError: also if onnx, onnxscript or onnxruntime are not installed.
    """
    runtime = _onnxruntime()
    refuse_unwritable(path, is_stream=False)
    called, inputs, axes = _called(model, example, dynamic_shapes)
    program = _program(called, inputs, axes)
    given_names = called.names if isinstance(called, _FirstOutput) else None
    try:
        with _quiet():
            onnx_program = torch.onnx.export(program, verbose=False, input_names=given_names)
    except torch.onnx.errors.OnnxExporterError as error:
        missing = re.search(r"No ONNX function found for .*?op='([^']*)'", str(error))
        reason = f"ONNX does not have its operation {missing[1]}" if missing else _first_line(error)
        raise LayerError(f"the model cannot be written as ONNX: {reason}", remedy="use save_program") from error
    assert onnx_program is not None
    place(path, onnx_program.save)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (found, *_) = session.run(None, {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)})
    return compare_outputs(called, inputs, torch.from_numpy(found), path)


class _FirstOutput(nn.Module):
    """A model with named inputs that returns only the first of its outputs."""

    def __init__(self, model: nn.Module, names: Sequence[str], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self.options = dict(options)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The first output."""
        found = self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)
        return found if isinstance(found, Tensor) else found[0]


def _called(
    model: nn.Module, example: Example, dynamic_shapes: DynamicShapes | None
) -> tuple[nn.Module, tuple[Tensor, ...], Any]:
    """The model as a function of tensors, its inputs in order, and their axes as torch takes them."""
    options = _options_for_transformers(model)
    if isinstance(example, tuple) and options is None:
        return model, example, dynamic_shapes
    if isinstance(example, tuple):
        names, inputs = list(inspect.signature(model.forward).parameters)[: len(example)], example
    else:
        names, inputs = list(example), tuple(example.values())
    axes = dynamic_shapes
    if isinstance(axes, Mapping):
        axes = tuple(axes.get(name, {}) for name in names)
    return _FirstOutput(model, names, options or {}), inputs, None if axes is None else (axes,)


def _options_for_transformers(model: nn.Module) -> dict[str, Any] | None:
    """Arguments with which a model of transformers returns tensors; None for any other model."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return None
    has_cache = hasattr(model.config, "use_cache")
    return {"return_dict": False, **({"use_cache": False} if has_cache else {})}


def _program(model: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: Any) -> ExportedProgram:
    copied = serving_copy(model).eval()
    inner: Any = copied.model if isinstance(copied, _FirstOutput) else copied
    if hasattr(inner, "set_experts_implementation") and inner._can_set_experts_implementation():
        # By default it is a grouped product, an operation of transformers that no other program has.
        inner.set_experts_implementation("batched_mm")
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(copied, example, dynamic_shapes=dynamic_shapes)
    except EinsearchError:
        raise
    except Exception as error:  # torch raises a dozen classes of errors for models that it cannot trace
        raise LayerError(
            f"torch.export cannot trace the model: {type(error).__name__}: {_first_line(error)}",
            remedy="trace it with torch.export.draft_export, which lists what stands in the way",
        ) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


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
    """Silence the exporters' messages about missing torchvision and their own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
