"""A transformer as one safetensors file: parameters by name, its config in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from einsearch_cli.data.tokens import Tokenizer
from einsearch_cli.errors import OutputError, SpecError
from einsearch_cli.export.copies import refuse_guided
from einsearch_cli.export.placing import place, refuse_existing
from einsearch_cli.files import draft_folder, sync_folder, write_error
from einsearch_cli.layers.feature_orders import layer_orders, set_recorded_orders_
from einsearch_cli.models.transformer import Transformer, config_from
from einsearch_cli.training.full.checkpoint import RunState, save_checkpoint

METADATA: Final = "einsearch"
"""Key of the JSON text in the metadata."""


def save_transformer(model: Transformer, path: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write parameters, config, tokenizer and feature orders; structured layers as factors, dense ones as `weight`.

    Args:
        model: any transformer; `dense_copy(model)` for one without factors.
        path: the file.
        tokenizer: written into the file, like the config.

    Raises:
        LayerError: if the model has guided layers.
        OutputError: if the file cannot be written.
    """
    refuse_guided(model)
    metadata = {
        "config": model.config.model_dump(mode="json"),
        "tokenizer": None if tokenizer is None else tokenizer.to_json(),
        "orders": layer_orders(model),
    }
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    place(path, lambda draft: save_file(tensors, draft, {"format": "pt", METADATA: json.dumps(metadata)}))


def load_transformer(path: Path, device: torch.device | str = "cpu") -> Transformer:
    """The transformer that `save_transformer` wrote, in evaluation mode.

    Raises:
        SpecError: if the file was not written by `save_transformer`.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            document = json.loads((file.metadata() or {}).get(METADATA, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise SpecError(
            f"{path} cannot be read as safetensors: {error}", remedy="write it again with `einsearch export`"
        ) from error
    if not isinstance(document, dict) or "config" not in document:
        raise SpecError(
            f"{path} has no entry {METADATA!r} with a config in its metadata: a transformer needs one",
            remedy="give a file that `einsearch export --to safetensors` or `--to dense` wrote",
        )
    with torch.device("meta"):
        model = Transformer(config_from(document["config"]))
    set_recorded_orders_(model, _orders(document, path))
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise SpecError(
            f"{path}: its tensors are not those of the config in its metadata: {' '.join(str(error).split())[:200]}",
            remedy="write it again with `einsearch export`",
        ) from error
    return model.eval()


def _orders(document: dict[str, Any], path: Path) -> dict[str, str]:
    """Feature orders by layer; empty for files of versions that did not write them."""
    orders = document.get("orders", {})
    if not isinstance(orders, dict) or not all(isinstance(text, str) for text in orders.values()):
        raise SpecError(
            f"{path}: orders of features {str(orders)[:80]!r} are not texts by layer",
            remedy="write it again with `einsearch export`",
        )
    return orders


def save_run(model: Transformer, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Write a folder that `load_model` reads, as a run with one checkpoint and no optimizer state.

    Raises:
        LayerError: if the model has guided layers.
        OutputError: if the path exists already, or the folder cannot be written.
    """
    refuse_guided(model)
    refuse_existing(folder)
    state = RunState(
        step=0,
        flops=0,
        elapsed_s=0.0,
        guided=False,
        guide_weight=0.0,
        spec={},
        config=model.config.model_dump(mode="json"),
        tokenizer=None if tokenizer is None else tokenizer.to_json(),
        data_digest="",
        orders=layer_orders(model),
    )
    tensors = {name: value.detach() for name, value in model.named_parameters()}
    try:
        with draft_folder(folder.resolve()) as draft:
            save_checkpoint(draft, state, tensors, {})
            os.replace(draft, folder.resolve())
            sync_folder(folder.resolve().parent)
    except (OSError, OutputError) as error:
        raise write_error(repr(str(folder)), error.__cause__ or error) from error
