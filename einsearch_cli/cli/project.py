"""`einsearch project`: trained dense matrices become the nearest ones of a structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import path_parser
from einsearch_cli.cli.output import NUMBERS, Format, chosen_format, format_option, render, table
from einsearch_cli.cli.params import Structured
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.layers import Swap, SwapReport

HELP = """Project the dense matrices of a trained model onto a structure.

SOURCE is the folder of a run of `einsearch train`, or a safetensors file with weights
of linear layers, NAME.weight of shape (out, in), from any program. Every matrix becomes
the nearest one of the structure, in the Frobenius norm: by singular value
decompositions with up to two factors, which is exact, else by alternating least squares.
The order is that in which the indices of input and output count along the features, slowest
first. Up to 36 orders are tried and the nearest is kept, so three axes on each side take a few times as long as one
order; an equation fixes the order.

From a run, --out is a new folder that generate, export and project read. From a file,
--out is a file in which NAME.factors.A, ... and NAME.gain are in place of NAME.weight;
name what is no linear layer, embeddings above all, with --skip.

[bold]Examples[/bold]

  einsearch project runs/dense --structure low-rank:r=256 --out runs/low-rank

  einsearch project model.safetensors --structure monarch --skip '*embed*' --skip lm_head --out small.safetensors
"""


class WeightFormat(StrEnum):
    """How a file of weights is written."""

    safetensors = "safetensors"


def project_command(
    source: Path = typer.Argument(..., metavar="SOURCE", help="Folder of a run or checkpoint, or a safetensors file."),
    structure: str = typer.Option(..., help="Structure, as for `einsearch classify`."),
    out: Path = typer.Option(..., parser=path_parser("--out"), metavar="PATH", help="Folder or file to write."),
    structured: Structured = typer.Option(Structured.ffn, help="Of a run: layers that carry the structure."),
    only: list[str] = typer.Option([], metavar="PATTERN", help="Of a file: layers whose name fits; repeatable."),
    skip: list[str] = typer.Option([], metavar="PATTERN", help="Of a file: layers to leave as they are; repeatable."),
    output: Format = format_option(NUMBERS),
) -> None:
    if source.suffix == ".safetensors":
        report = _project_file(source, structure, out, only, skip)
    else:
        if only or skip:
            raise SpecError(
                f"--only and --skip with {source}: they choose among the weights of a .safetensors file",
                remedy="choose the layers of a run with --structured",
            )
        report = _project_run(source, structure, structured, out)
    console.data(_text(report.replaced, output))
    console.talk(report.summary)
    console.talk(f"{_total(report.replaced)}; wrote {out}")


def _project_run(source: Path, structure: str, structured: Structured, out: Path) -> SwapReport:
    from einsearch_cli.export import refuse_existing
    from einsearch_cli.models.transformer import config_from
    from einsearch_cli.structures import parse_layer
    from einsearch_cli.training.full import load_model, refuse_without_checkpoint

    parse_layer(structure)
    refuse_without_checkpoint(source)
    refuse_existing(out)

    from einsearch_cli.export import compress_transformer, save_run

    model, tokenizer = load_model(source, warn=console.talk)
    changes = {"structure": structure, "structured": structured.value}
    config = config_from(model.config.model_dump() | changes)
    compressed, report = compress_transformer(model, config, _watch)
    save_run(compressed, out, tokenizer)
    return report


def _project_file(source: Path, structure: str, out: Path, only: list[str], skip: list[str]) -> SwapReport:
    from einsearch_cli.export import refuse_other_than_safetensors
    from einsearch_cli.files import refuse_unwritable
    from einsearch_cli.structures import parse_structure

    wanted = parse_structure(structure)
    chosen_format(None, out, WeightFormat.safetensors, option="")
    refuse_unwritable(out, is_stream=False)
    refuse_other_than_safetensors(source)

    from einsearch_cli.export import Names, compress_file

    report = compress_file(source, out, wanted, Names(tuple(only), tuple(skip)), _watch)
    for name, reason in report.skipped.items():
        console.talk(f"left {name}: {reason}")
    return report


def _watch(swap: Swap) -> None:
    console.talk(f"projected {swap.name}, {swap.in_features} -> {swap.out_features}")


def _text(swaps: Sequence[Swap], output: Format) -> str:
    records = [
        {
            "layer": swap.name,
            "d_in": swap.in_features,
            "d_out": swap.out_features,
            "relative_error": swap.relative_error,
            "order": swap.sides,
            "params_before": swap.costs.params_before,
            "params_after": swap.costs.params_after,
        }
        for swap in swaps
    ]
    if output is Format.json:
        return json.dumps(records, indent=2, ensure_ascii=False)
    if output is Format.csv:
        return render(records, [], Format.csv)
    rows = [
        {
            "layer": swap.name,
            "d_in": f"{swap.in_features:,}",
            "d_out": f"{swap.out_features:,}",
            "relative error": f"{swap.relative_error:.4f}",
            "order": swap.sides or "-",
            "params before": f"{swap.costs.params_before:,}",
            "after": f"{swap.costs.params_after:,}",
            "kept": f"{swap.costs.params_after / swap.costs.params_before:.1%}",
        }
        for swap in swaps
    ]
    return table(rows, align_right=True)


def _total(swaps: Sequence[Swap]) -> str:
    before, after = (sum(getattr(swap.costs, f"params_{when}") for swap in swaps) for when in ("before", "after"))
    layers = f"{len(swaps)} layer{'s' * (len(swaps) != 1)}"
    return f"{layers}: {before:,} -> {after:,} parameters ({after / before:.1%})"
