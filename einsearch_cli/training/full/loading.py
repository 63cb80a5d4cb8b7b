"""Load a trained transformer from its folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from einsearch_cli.data.tokens import Tokenizer, tokenizer_from_json
from einsearch_cli.errors import CheckpointError
from einsearch_cli.models.transformer.config import config_from
from einsearch_cli.training.full.checkpoint import (
    FOLDER,
    Checkpoint,
    Warn,
    checkpoints_of,
    read_checkpoint,
    read_newest,
    refuse_pickle,
)
from einsearch_cli.training.sealed import STATE

if TYPE_CHECKING:  # a folder without checkpoints is refused before torch is loaded
    import torch

    from einsearch_cli.models.transformer import Transformer


def load_model(
    path: Path, device: torch.device | str = "cpu", warn: Warn = warnings.warn
) -> tuple[Transformer, Tokenizer | None]:
    """The transformer of a run or of one of its checkpoints, in evaluation mode, with its tokenizer if it has one.

    A run that is still in its guided part gives a model with guides, at their current weight.

    Args:
        path: folder of a run, whose newest whole checkpoint is used, or folder of a checkpoint.
        device: device of the model.
        warn: called with a line for every damaged checkpoint that is skipped.

    Raises:
        CheckpointError: there is no checkpoint, a damaged one, or a pickle.
    """
    checkpoint = _find(path, warn)
    import torch

    from einsearch_cli.guided import guide_layers
    from einsearch_cli.layers.feature_orders import set_recorded_orders_
    from einsearch_cli.models.transformer import Transformer
    from einsearch_cli.training.full.network import load_parameters

    state = checkpoint.state
    with torch.device("meta"):
        model = Transformer(config_from(state.config))
    model.to_empty(device=device)
    if state.guided:
        guide_layers(model).set_weight(state.guide_weight)
    set_recorded_orders_(model, state.orders)
    load_parameters(dict(model.named_parameters()), checkpoint.model)
    return model.eval(), None if state.tokenizer is None else tokenizer_from_json(state.tokenizer)


def _find(path: Path, warn: Warn) -> Checkpoint:
    refuse_without_checkpoint(path)
    if (path / STATE).exists():
        return read_checkpoint(path, with_optimizer=False)
    found = read_newest(path, warn, with_optimizer=False)
    assert found is not None
    return found


def refuse_without_checkpoint(path: Path) -> None:
    """Raise CheckpointError unless this is the folder of a checkpoint, or of a run that has some; nothing is read."""
    refuse_pickle(path)
    if (path / STATE).exists() or checkpoints_of(path):
        return
    inner = sorted(folder.name for folder in path.iterdir() if checkpoints_of(folder)) if path.is_dir() else []
    raise CheckpointError(
        f"{path} has no checkpoint: " + (f"its runs are {', '.join(inner)}" if inner else f"no {FOLDER}/ in it"),
        remedy=f"give {path / inner[0]}" if inner else "give the folder that `einsearch train` wrote",
    )
