"""Hugging Face models with swapped layers: written by `save_pretrained`, built again from config and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from einsearch_cli.errors import EinsearchError, SpecError
from einsearch_cli.files import make_folder, write_atomically
from einsearch_cli.layers import SwapReport, apply_swaps

SWAPS: Final = "einsearch_swaps.json"
"""File beside the config that says which layers were swapped for what."""


def save_swapped(model: Any, reports: SwapReport | Sequence[SwapReport], folder: str | Path) -> None:
    """Write a transformers model whose linear layers `swap_linear` replaced.

    `model.save_pretrained(folder)`, and the reports as JSON beside it, from which `load_swapped` builds it again.

    Args:
        model: a `PreTrainedModel`.
        reports: what `swap_linear` gave, in the order of the calls.
        folder: made if it is missing.

    Raises:
        OutputError: if the folder or the reports cannot be written.
    """
    make_folder(Path(folder))
    several = [reports] if isinstance(reports, SwapReport) else list(reports)
    model.save_pretrained(folder)
    document = [report.to_json() for report in several]
    write_atomically(Path(folder) / SWAPS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def load_swapped(folder: str | Path, model_class: Any) -> Any:
    """The model that `save_swapped` wrote, in evaluation mode; nothing is fetched from the hub.

    Built from its config, swapped as the reports say, then filled with the stored weights.

    Args:
        folder: what `save_swapped` wrote.
        model_class: the class of the model, such as `transformers.GPT2LMHeadModel`, or one of the `AutoModel…` classes.

    Raises:
        SpecError: if the reports or the weights are missing, damaged, or do not fit each other.
        LayerError: if the model has other linear layers than the reports.
    """
    folder = Path(folder)
    model = _from_config(folder, model_class)
    for report in _reports(folder):
        apply_swaps(model, report)
    tensors = _weights(folder)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    own = model.state_dict()
    stored = {own[name].data_ptr() for name in tensors if name in own}
    lost = [name for name in missing if own[name].data_ptr() not in stored]  # tied weights are stored once
    if lost or unexpected:
        raise SpecError(
            f"{folder}: the weights lack {', '.join(lost) or 'none'} of the model's, and have {len(unexpected)} that it "
            f"does not have{': ' + ', '.join(unexpected[:3]) if unexpected else ''}",
            remedy="give the folder that save_swapped wrote, and the class of that model",
        )
    return model.eval()


def _from_config(folder: Path, model_class: Any) -> Any:
    from transformers import AutoConfig  # the caller has it, to give model_class

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    build = model_class.from_config if hasattr(model_class, "from_config") else model_class._from_config
    return build(config)


def _reports(folder: Path) -> list[SwapReport]:
    path = folder / SWAPS
    try:
        return [SwapReport.from_json(one) for one in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, EinsearchError) as error:
        raise SpecError(
            f"{path} is no list of swap reports: {error}", remedy="give the folder that save_swapped wrote"
        ) from error


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of all files, however many `save_pretrained` has split them into."""
    files = sorted(folder.glob("*.safetensors"))
    tensors: dict[str, Tensor] = {}
    try:
        for file in files:
            tensors |= load_file(file)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"weights in {folder} cannot be read: {error}", remedy="save the model again") from error
    if not tensors:
        raise SpecError(f"{folder} has no .safetensors file: the weights are missing", remedy="save the model again")
    return tensors
