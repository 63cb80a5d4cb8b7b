"""`einsearch project`: replace trained dense matrices by the nearest ones of a structure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import complete
from einsearch_cli.cli.options import MAX_TOKENS, OVERWRITE, path_parser, real_option, refuse_taken, whole_option
from einsearch_cli.cli.output import NUMBERS, Format, chosen_format, format_option, render, table
from einsearch_cli.cli.params import Structured
from einsearch_cli.cli.progress import share_progress
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.compression import Progress as CompressionProgress
    from einsearch_cli.swap import Swap, SwapReport

HELP = """Project the dense matrices of a trained model onto a structure.

SOURCE is a folder of a run of `einsearch train`, a folder of a Hugging Face
language model, or a safetensors file from any program, with weights of linear
layers: NAME.weight of shape (out, in).

Every matrix becomes the nearest one of the structure, in the Frobenius norm.
Up to two factors come from singular value decompositions, which are exact, and
more from alternating least squares. The order, in which features count through
the indices of input and output, is part of a structure: up to 36 orders are
tried and the nearest is kept. An equation fixes the order.

From a run, --out is a new folder that generate, export and project read. From a
file, --out is a file that has NAME.factors.A, ... and NAME.gain in place of
NAME.weight. Name what is not a linear layer, above all embeddings, with --skip.

--calibrate takes a text file, a folder of texts or a folder of token files. Then
layer after layer is fitted to the outputs of the dense model on these data,
which loses far less. With --keep every layer gets a rank of its own, so that the
budget goes where it serves the output most. With several --structure every layer
also gets the one that suits it.

Examples:

  einsearch project runs/dense --structure low-rank:r=64 --out runs/low-rank

  einsearch project model.safetensors --structure monarch --skip '*embed*' --skip lm_head --out small.safetensors

  einsearch project models/llama --calibrate books --keep 0.5 --out models/llama-half

  einsearch project models/llama --calibrate books --structure low-rank --structure btt --keep 0.4 --out small

  einsearch project runs/dense --structure btt:r=2 --calibrate book.txt --out runs/btt
"""


class Budget(StrEnum):
    """The unit of a budget."""

    params = "params"
    flops = "flops"


class WeightFormat(StrEnum):
    """The format of a file of weights."""

    safetensors = "safetensors"


def project_command(
    source: Path = typer.Argument(
        ..., metavar="SOURCE", help="Folder of a run, checkpoint or Hugging Face model, or a safetensors file."
    ),
    structure: list[str] = typer.Option(
        [],
        metavar="SPEC",
        autocompletion=complete(),
        help="Structure, as for `einsearch classify`; with --keep also families, and repeatable.",
        show_default="low-rank with --keep; required without it",
    ),
    out: Path = typer.Option(..., parser=path_parser("--out"), metavar="PATH", help="Folder or file to write."),
    structured: Structured = typer.Option(
        Structured.ffn, metavar="LAYERS", help="For a run: layers that carry the structure."
    ),
    only: list[str] = typer.Option(
        [], metavar="PATTERN", help="For a file: layers whose name fits; repeatable.", show_default="all layers"
    ),
    skip: list[str] = typer.Option([], metavar="PATTERN", help="For a file: layers to leave as they are; repeatable."),
    calibrate: Path | None = typer.Option(
        None, metavar="PATH", help="Text, folder of texts, or folder of token files."
    ),
    tokens: int = whole_option(
        "--calibration-tokens", within=(1, MAX_TOKENS), default=131_072, help="Tokens to calibrate with, at most."
    ),
    keep: float | None = real_option(
        "--keep",
        rule=("above 0 and below 1", lambda number: 0 < number < 1),
        example="0.5",
        help="With --calibrate: share of the layers that stays.",
    ),
    budget: Budget = typer.Option(Budget.params, help="What --keep is a share of."),
    overwrite: bool = OVERWRITE,
    output: Format = format_option(NUMBERS),
) -> None:
    _check_source(source)
    if out.resolve() != source.resolve():  # which is refused for a better reason
        refuse_taken(out, overwrite)
    is_model = _is_model(source)
    if keep is not None:
        _check_keep(source, is_model, calibrate)
    if not structure and keep is None:
        raise SpecError("no --structure and no --keep: nothing says how small the layers become", remedy="--keep 0.5")
    if len(structure) > 1 and keep is None:
        raise SpecError(f"{len(structure)} structures without --keep: all layers get one", remedy="add --keep 0.5")
    if is_model:
        if calibrate is None:
            raise SpecError(
                f"{source} is a Hugging Face model: its layers are fitted to data", remedy="add --calibrate TEXT"
            )
        report = _compress_folder(source, structure or ["low-rank"], out, calibrate, tokens, keep, budget)
    elif source.suffix == ".safetensors":
        if calibrate is not None:
            raise SpecError(
                f"--calibrate with {source}: a file of weights cannot be run on data",
                remedy="give the folder of the model, or leave --calibrate out",
            )
        report = _project_file(source, structure[0], out, only, skip)
    else:
        if only or skip:
            raise SpecError(
                f"--only and --skip with {source}: they choose among the weights of a .safetensors file",
                remedy="choose the layers of a run with --structured",
            )
        report = _project_run(source, structure[0], structured, out, calibrate, tokens)
    console.data(_text(report.replaced, output))
    console.talk(report.summary)
    console.talk(f"{_total(report.replaced)}; wrote {out}")


def _is_model(source: Path) -> bool:
    """Whether a folder is one of transformers: checkpoints of runs have no `model_type`."""
    try:
        return "model_type" in json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _check_source(source: Path) -> None:
    if not source.exists():
        raise SpecError(
            f"{source}: no such file or folder", remedy="give the folder of a model, or a .safetensors file"
        )
    if source.is_dir() and not any(source.iterdir()):
        raise SpecError(
            f"{source} is an empty folder: no config.json of a Hugging Face model in it, and no checkpoints/ of a run",
            remedy="give the folder that the model was saved to",
        )


def _check_keep(source: Path, is_model: bool, calibrate: Path | None) -> None:
    if not is_model:
        lacks = ", and it has no config.json" if source.is_dir() and not (source / "config.json").exists() else ""
        raise SpecError(
            f"--keep with {source}: layers of their own sizes are written for Hugging Face models only{lacks}",
            remedy="give --structure with a size, such as low-rank:r=64",
        )
    if calibrate is None:
        raise SpecError("--keep without --calibrate: data say which layers can be small", remedy="--calibrate TEXT")


def _compress_folder(
    source: Path, structures: list[str], out: Path, calibrate: Path, tokens: int, keep: float | None, budget: Budget
) -> SwapReport:
    from einsearch_cli.export import refuse_existing
    from einsearch_cli.structures import FAMILIES, parse_structure

    for text in structures:
        if keep is None or text not in FAMILIES:
            parse_structure(text)
    refuse_existing(out)

    from einsearch_cli.export import compress_folder

    def announce(number: int, pass_s: float) -> None:
        from einsearch_cli.reports.numbers import duration_text

        passes = 11 if keep is not None else 8
        console.talk(
            f"{number:,} tokens; one pass takes about {duration_text(pass_s)}, all {passes} about "
            f"{duration_text(passes * pass_s)}, and decompositions on top"
        )

    with share_progress("compressing") as show:

        def watch(progress: CompressionProgress) -> None:
            show(progress.done / progress.total)
            console.talk(f"{progress.doing} {', '.join(progress.layers)}: {progress.done} of {progress.total}")

        return compress_folder(source, out, structures, calibrate, tokens, keep, budget.value, watch, announce)


def _project_run(
    source: Path, structure: str, structured: Structured, out: Path, calibrate: Path | None, tokens: int
) -> SwapReport:
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
    batches = None
    if calibrate is not None:
        from einsearch_cli.export import calibration_batches

        batches = calibration_batches(calibrate, tokenizer, config.vocabulary, config.context, tokens)
    compressed, report = compress_transformer(model, config, _watch, batches)
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
    from einsearch_cli.structures import short_name

    records = [
        {
            "layer": swap.name,
            "d_in": swap.in_features,
            "d_out": swap.out_features,
            "relative_error": swap.relative_error,
            **({} if swap.output_error is None else {"output_error": swap.output_error}),
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
            **({} if swap.output_error is None else {"of outputs": f"{swap.output_error:.4f}"}),
            **({} if swap.structure is None else {"structure": short_name(swap.structure)}),
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
