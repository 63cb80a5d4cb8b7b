"""`einsearch export`: a trained transformer for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import out_file, path_parser
from einsearch_cli.cli.output import chosen_format

if TYPE_CHECKING:
    from einsearch_cli.models.transformer import Transformer

HELP = """Write a trained transformer for other programs.

CKPT is the folder of a run, of which the newest checkpoint is taken, or of a
checkpoint. Formats:

  safetensors   parameters by name, structured layers as factors; config and tokenizer in the metadata

  dense         the same with every structured layer merged to one matrix, NAME.weight

  torch-export  a .pt2 program that torch.export.load runs without einsearch

  onnx          an ONNX model; needs pip install 'einsearch\\[onnx]'

Programs take token ids (batch, tokens) of any batch and of any length up to the
context and give logits; they are run once after writing and compared with the model.

[bold]Examples[/bold]

  einsearch export runs/low-rank --to onnx --out low-rank.onnx

  einsearch export runs/low-rank --to dense --out merged.safetensors
"""

_EXAMPLE_TOKENS = 8


class Target(StrEnum):
    """What to write."""

    safetensors = "safetensors"
    dense = "dense"
    torch_export = "torch-export"
    onnx = "onnx"


def export_command(
    checkpoint: Path = typer.Argument(
        ..., parser=path_parser("CKPT"), metavar="CKPT", help="Folder of a run, or of one of its checkpoints."
    ),
    target: Target = typer.Option(..., "--to", help="Format."),
    out: Path = out_file(default=..., help="File to write."),
) -> None:
    from einsearch_cli.files import refuse_unwritable
    from einsearch_cli.training.full import load_model, refuse_without_checkpoint

    chosen_format(target, out, target, option="--to")
    refuse_unwritable(out, is_stream=False)
    refuse_without_checkpoint(checkpoint)

    from einsearch_cli.export import dense_copy, save_transformer

    model, tokenizer = load_model(checkpoint, warn=console.talk)
    if target is Target.safetensors:
        save_transformer(model, out, tokenizer)
    elif target is Target.dense:
        save_transformer(dense_copy(model), out, tokenizer)
    else:
        difference = _save_program(model, target, out)
        console.talk(f"outputs differ from the model's by {difference:.1g} of the largest")
    console.talk(f"wrote {out}, {out.stat().st_size:,} bytes")


def _save_program(model: Transformer, target: Target, out: Path) -> float:
    import torch
    from torch.export import Dim

    from einsearch_cli.export import save_onnx, save_program

    context = model.config.context
    # A length or a batch of 1 would be taken for a constant.
    tokens = torch.arange(2 * min(_EXAMPLE_TOKENS, context)).reshape(2, -1) % model.config.vocabulary
    axes = {0: Dim("batch", min=1, max=4096)}
    if context > 1:
        axes[1] = Dim("tokens", min=1, max=context)
    save = save_onnx if target is Target.onnx else save_program
    return save(model, out, (tokens,), (axes,))
