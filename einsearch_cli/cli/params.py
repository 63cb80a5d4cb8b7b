"""`einsearch params`: the costs of a transformer, before it is built."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import complete, complete_card, one_of
from einsearch_cli.cli.options import MAX_TOKENS, SHARE, flag, read_set_words, real_option, whole_option
from einsearch_cli.cli.output import NUMBERS, Format, format_option, render, table
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.models.transformer import Accelerator, Estimate, TransformerConfig

HELP = """Show parameters and FLOPs of a transformer, and what its training takes.

PRESET is s, m, l or xl (110M, 335M, 729M and 1.3B parameters), or wide-m or
wide-l (narrow attention, wide low-rank feed-forward networks). --set changes any
setting. Nothing is allocated. 'of dense' compares with the same transformer
without structure.

FLOPs are 2 × multiply-adds of one forward pass per token, at the full context.
--gpu adds an estimate of memory and time of a training run with AdamW. The time
assumes a share of the card's peak, --utilisation.

Examples:

  einsearch params xl --structure low-rank:r=512

  einsearch params s --structure btt:r=2 --structured all --set norm=rms --set activation=swiglu

  einsearch params wide-l --gpu h100 --batch 16 --tokens 14.6e9
"""


BATCH = 8


class Structured(StrEnum):
    """Layers that carry the structure."""

    ffn = "ffn"
    attn = "attn"
    all = "all"


class PrecisionName(StrEnum):
    """Number type of the matrix products in training."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def params_command(
    preset_name: str = typer.Argument(
        ...,
        metavar="PRESET",
        autocompletion=one_of("s", "m", "l", "xl", "wide-m", "wide-l"),
        help="Size of the transformer.",
    ),
    structure: str | None = typer.Option(
        None,
        metavar="SPEC",
        autocompletion=complete(),
        help="Structure, as for `einsearch classify`.",
        show_default="that of the preset",
    ),
    structured: Structured | None = typer.Option(
        None,
        metavar="LAYERS",
        help="Layers that carry it: feed-forward, attention, or all.",
        show_default="those of the preset",
    ),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
    gpu: str | None = typer.Option(
        None,
        metavar="CARD",
        autocompletion=complete_card,
        help="Estimate a training run on this card, such as a100 or h100.",
    ),
    gpus: int | None = whole_option("--gpus", within=(1, 1_000_000), help="Cards that share the tokens.", shown="1"),
    batch: int | None = whole_option(
        "--batch",
        example=8,
        within=(1, 1_000_000_000),
        help="Rows of the full context that a card holds at once.",
        shown=str(BATCH),
    ),
    tokens: float | None = real_option(
        "--tokens",
        rule=(f"from 1 to {MAX_TOKENS:.0e}", lambda number: 1 <= number <= MAX_TOKENS),
        example="26e9",
        help="Training tokens.",
        shown="20 per parameter",
    ),
    precision: PrecisionName | None = typer.Option(
        None, metavar="TYPE", help="Numbers of the matrix products.", show_default="bfloat16"
    ),
    recompute: bool = flag("--recompute", "Compute activations again in the backward pass."),
    utilisation: float | None = real_option(
        "--utilisation", rule=SHARE, example="0.4", help="Share of the peak FLOP/s that is assumed.", shown="0.4"
    ),
    output: Format = format_option(NUMBERS),
) -> None:
    from einsearch_cli.models.transformer import UTILISATION, accelerator, dense_twin, estimate, model_costs, preset
    from einsearch_cli.reports.transformer_costs import cost_records, cost_rows, estimate_lines

    words = read_set_words(settings)
    estimated = {"--gpus": gpus, "--batch": batch, "--tokens": tokens, "--precision": precision}
    estimated |= {"--recompute": recompute or None, "--utilisation": utilisation}
    _refuse_without_gpu(gpu, [option for option, given in estimated.items() if given is not None])
    changes = dict(words.values)
    changes |= {"structure": structure} if structure is not None else {}
    changes |= {"structured": structured.value} if structured is not None else {}
    config = preset(preset_name, origin=words.origin, **changes)
    card = None if gpu is None else accelerator(gpu)
    costs = model_costs(config)
    found: Estimate | None = None
    if card is not None:
        found = estimate(
            config,
            card,
            tokens=20 * costs.total.params if tokens is None else tokens,
            batch=batch or BATCH,
            precision=(precision or PrecisionName.bfloat16).value,
            recompute=recompute,
            devices=gpus or 1,
            utilisation=UTILISATION if utilisation is None else utilisation,
        )
    if output is Format.json:
        console.data(json.dumps(_document(config, costs.to_json(), found, card), indent=2, ensure_ascii=False))
        return
    if output is Format.csv:
        console.data(render(cost_records(costs), [], Format.csv))
    else:
        console.talk(_described(preset_name, config))
        console.data(table(cost_rows(costs, model_costs(dense_twin(config))), align_right=True))
    if found is not None and card is not None:
        lines = estimate_lines(found, card, gpus or 1)
        if output is Format.table:
            console.data(console.wrapped("\n".join(lines), console.width()))
        else:
            console.talk("\n".join(lines))


def _refuse_without_gpu(gpu: str | None, given: list[str]) -> None:
    """Raise an error for options of the estimate without an estimate."""
    if gpu is None and given:
        raise SpecError(
            f"{given[0]} without --gpu: it is a setting of the estimate for a card",
            remedy=f"add --gpu h100, or leave {given[0]} out",
        )


def _document(
    config: TransformerConfig, costs: dict[str, Any], found: Estimate | None, card: Accelerator | None
) -> dict[str, Any]:
    document = {"config": config.model_dump(mode="json"), **costs}
    if found is not None and card is not None:
        document["estimate"] = {"device": card.name, **found.to_json()}
    return document


def _described(name: str, config: TransformerConfig) -> str:
    where = {"ffn": "feed-forward networks", "attn": "attention projections", "all": "every layer but the head"}
    structure = (
        "dense layers"
        if config.structure == "dense"
        else f"{config.structure} in {where[config.structured]}"
        + (", the first feed-forward network dense" if config.first_ffn_dense and config.structured != "attn" else "")
    )
    return (
        f"{name}: {config.layers} blocks of width {config.width}, {config.heads} heads of {config.head_size} "
        f"({config.kv_heads} for keys and values), hidden {config.hidden}, context {config.context}; {structure}"
    )
