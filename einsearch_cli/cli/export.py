"""`einsearch export`: a trained transformer for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import OVERWRITE, output_path, path_parser, refuse_taken
from einsearch_cli.cli.output import chosen_format
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.models.transformer import Transformer

HELP = """Write a trained transformer for other programs.

CKPT is the folder of a run, whose newest checkpoint is taken, or the folder of a
checkpoint.

Formats:

  safetensors   parameters by name, structured layers as factors; config and tokenizer in the metadata
  dense         like safetensors, with every structured layer merged to one matrix, NAME.weight
  torch-export  a .pt2 program that torch.export.load runs without einsearch
  onnx          an ONNX model; needs pip install 'einsearch[onnx]'
  hf            a folder for transformers, tokenizer included; needs pip install 'einsearch[transformers]'

The model in a folder is a Llama, Qwen3, GPT-NeoX, StarCoder2, Arcee or StableLM,
depending on its norm, activation, heads and biases. Its structured layers are
merged. With --structured they stay factors, and the folder loads wherever
einsearch is imported.

Programs take token ids of shape (batch, tokens), for any batch and for up to
`context` tokens, and give logits. A program or folder is run once after it is
written, and the result is compared with that of the model.

Examples:

  einsearch export runs/low-rank --to onnx --out low-rank.onnx

  einsearch export runs/low-rank --to dense --out merged.safetensors

  einsearch export runs/low-rank --to hf --out low-rank-llama
"""

_EXAMPLE_TOKENS = 8


class Target(StrEnum):
    """The kind of file to write."""

    safetensors = "safetensors"
    dense = "dense"
    torch_export = "torch-export"
    onnx = "onnx"
    hf = "hf"


def export_command(
    checkpoint: Path = typer.Argument(
        ..., parser=path_parser("CKPT"), metavar="CKPT", help="Folder of a run, or of one of its checkpoints."
    ),
    target: Target = typer.Option(..., "--to", help="Format."),
    to: str = typer.Option(..., "--out", metavar="PATH", help="File to write; for hf, a folder."),
    structured: bool = typer.Option(False, "--structured", help="For hf: keep structured layers as factors."),
    overwrite: bool = OVERWRITE,
) -> None:
    from einsearch_cli.training.full import load_model, refuse_without_checkpoint

    out = _checked(to, target, structured)
    refuse_taken(out, overwrite)
    refuse_without_checkpoint(checkpoint)

    from einsearch_cli.export import dense_copy, save_for_transformers, save_transformer

    model, tokenizer = load_model(checkpoint, warn=console.talk)
    if target is Target.hf:
        difference = save_for_transformers(model, out, tokenizer, structured=structured)
        console.talk(f"logits differ from the model's by {difference:.1g} of the largest")
        if tokenizer is None:
            console.talk("the run has no tokenizer, and so has the folder")
        console.talk(f"wrote {out}, {sum(file.stat().st_size for file in out.iterdir()):,} bytes")
        return
    if target is Target.safetensors:
        save_transformer(model, out, tokenizer)
    elif target is Target.dense:
        save_transformer(dense_copy(model), out, tokenizer)
    else:
        difference = _save_program(model, target, out)
        console.talk(f"outputs differ from the model's by {difference:.1g} of the largest")
    console.talk(f"wrote {out}, {out.stat().st_size:,} bytes")


def _checked(text: str, target: Target, structured: bool) -> Path:
    """The path to write to; an impossible one is refused before torch is loaded."""
    from einsearch_cli.export.placing import refuse_existing
    from einsearch_cli.files import refuse_unwritable

    out = output_path(text, is_folder=target is Target.hf)
    if target is Target.hf:
        refuse_existing(out)
        return out
    if structured:
        raise SpecError(
            f"--structured with --to {target.value}: it is for --to hf, where structured layers are merged without it",
            remedy="leave --structured out",
        )
    chosen_format(target, out, target, option="--to")
    refuse_unwritable(out, is_stream=False)
    return out


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
