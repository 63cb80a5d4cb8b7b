"""`einsearch suggest`: structures for a layer, with costs and the evidence of studies."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.options import MANY, MAX_DIMENSION, Device, path_parser, whole_option
from einsearch_cli.cli.output import Format, format_option, render, table
from einsearch_cli.errors import Exit, SpecError

if TYPE_CHECKING:
    from einsearch_cli.advice.candidates import Wanted
    from einsearch_cli.advice.statements import Statement
    from einsearch_cli.advice.suggesting import Advice, Suggestion

HELP = """Suggest structures for a layer, with costs and what studies say of them.

Candidates are named families, and structures of a grid, that have the wanted
size or down to three quarters of it. Times are predicted by the cost model, with
the constants of this machine if `einsearch bench --calibrate` measured them.
Evidence comes from the studies that are part of einsearch, from those that
`einsearch evidence add` kept, and from --evidence. Nothing is trained.

Examples:

  einsearch suggest --d-in 4096 --d-out 11008 --keep 1/8

  einsearch suggest --d-in 1024 --d-out 4096 --flops 2e6 --prefer decoding

  einsearch suggest --d-in 768 --d-out 3072 --tokens 2048 --evidence runs/demo --format json
"""


_LEAST: Final = ("in training", "of dense", "FLOPs/token", "params", "decoding", "memory", "rank")
_LEAST_EVIDENCE: Final = ("source", "widths", "new seeds", "FLOPs per run", "task", "at this scale", "is", "verdict")
"""Columns that a narrow terminal omits, the least important first."""


class Prefer(StrEnum):
    """The quality that matters most."""

    training = "training"
    decoding = "decoding"
    memory = "memory"


def suggest_command(
    d_in: int = whole_option("--d-in", example=4096, within=(2, MAX_DIMENSION), default=1024, help="Input dimension."),
    d_out: int | None = whole_option(
        "--d-out", example=11008, within=(2, MAX_DIMENSION), help="Output dimension.", shown="d_in"
    ),
    keep: str | None = typer.Option(
        None,
        metavar="SHARE",
        help="Share of the parameters of a dense layer, such as 1/8.",
        show_default="1/4, without --params and --flops",
    ),
    params: int | None = whole_option("--params", example=1000000, within=(1, MANY), help="Most parameters."),
    flops: int | None = whole_option(
        "--flops", example=2000000, within=(1, MANY), help="Most FLOPs per token of a forward pass."
    ),
    tokens: int = whole_option(
        "--tokens", example=512, within=(1, 10**9), default=512, help="Tokens of a training step."
    ),
    prefer: Prefer = typer.Option(
        Prefer.training,
        metavar="WHAT",
        help="What the layer should be good at: time of training or decoding, or memory of training.",
    ),
    device: Device = typer.Option(Device.cpu, help="Where times are predicted for."),
    threads: int | None = whole_option(
        "--threads", example=1, within=(1, 4096), help="Threads of a CPU, as it was calibrated.", shown="all cores"
    ),
    evidence: list[Path] = typer.Option(
        [],
        "--evidence",
        parser=path_parser("--evidence"),
        metavar="RUN",
        help="A study, or a file of evidence; repeatable.",
    ),
    output: Format = format_option(),
) -> int:
    from einsearch_cli.advice.evidence import known_evidence
    from einsearch_cli.advice.suggesting import advise
    from einsearch_cli.layers.plans.machine_profile import float32_profile

    d_out = d_in if d_out is None else d_out
    wanted = _wanted(d_in, d_out, keep, params, flops)
    profile = float32_profile(device.value, threads or os.cpu_count() or 1)
    found = advise(d_in, d_out, wanted, known_evidence(evidence), profile, tokens=tokens, prefer=prefer.value)
    console.data(_text(found, output))
    return Exit.OK


def _wanted(d_in: int, d_out: int, keep: str | None, params: int | None, flops: int | None) -> Wanted:
    """The size that the options request.

    Raises:
        SpecError: two of them, or a share that is none.
    """
    from einsearch_cli.advice.candidates import Wanted
    from einsearch_cli.structures.extent import exact_rational

    given = [name for name, value in (("--keep", keep), ("--params", params), ("--flops", flops)) if value is not None]
    if len(given) > 1:
        raise SpecError(f"{given[0]} and {given[1]} both say a size: a layer has one", remedy=f"keep {given[0]}")
    if params is not None:
        return Wanted(params, "params", f"up to {params:,} parameters")
    if flops is not None:
        return Wanted(flops, "flops", f"up to {flops:,} FLOPs per token")
    share = exact_rational(keep or "1/4")
    if share is None or not 0 < share <= 1:
        raise SpecError(f"--keep {str(keep)[:40]}: a share above 0 and up to 1 is needed", remedy="--keep 1/8")
    return Wanted(float(share) * d_in * d_out, "params", f"up to {share} of the parameters of a dense layer")


def _text(advice: Advice, output: Format) -> str:
    from einsearch_cli.advice.suggesting import to_plain

    document = to_plain(advice)
    if output is Format.json:
        return json.dumps(document, indent=2, ensure_ascii=False)
    rows = [_row(item, advice) for item in (*advice.suggestions, advice.dense)]
    if output is not Format.table:
        return render(document["suggestions"] if output in (Format.jsonl, Format.yaml) else rows, rows, output)
    statements = dict.fromkeys(statement for item in advice.suggestions for statement in item.statements)
    evidence: tuple[str, ...] = ("No study here has measured one of these families.",)
    if statements:
        evidence = (
            console.wrapped(
                "what studies say (gain: the yardstick's training FLOPs over the structure's for equal loss, 95% interval)",
                console.width(),
            ),
            "",
            table([_evidence_row(statement) for statement in statements], least=_LEAST_EVIDENCE, folded=("studied",)),
        )
    where = "calibrated" if advice.calibrated else "not calibrated"
    head = f"{advice.d_in} × {advice.d_out}, {advice.wanted}; times predicted ({where}: {advice.cost_model})"
    head, advised = (console.wrapped(text, console.width()) for text in (head, advice.recommendation))
    return "\n".join(
        (head, "", table(rows, least=_LEAST, folded=("structure",)), "", *evidence, "", advised, "", advice.snippet)
    )


def _row(item: Suggestion, advice: Advice) -> dict[str, str]:
    from einsearch_cli.reports.numbers import bytes_text, time_text

    rank = f"{item.certified_rank:,}" if item.is_full_rank else f"{item.certified_rank:,} to {item.rank_bound:,}"
    return {
        "structure": item.name,
        "params": f"{item.params:,}",
        "of dense": f"{item.params / advice.dense.params:.3g}",
        "FLOPs/token": f"{item.flops_per_token:,}",
        "rank": rank,
        f"training, {advice.tokens:,} tokens": time_text(item.training_us / 1e6),
        "decoding": time_text(item.decoding_us / 1e6),
        "memory": bytes_text(item.inference_bytes),
        "in training": bytes_text(item.training_bytes),
    }


def _evidence_row(said: Statement) -> dict[str, str]:
    from einsearch_cli.reports.numbers import factor_text, flops_text
    from einsearch_cli.structures import parse_structure, short_name

    gain = "not measured" if said.gain is None else factor_text(said.gain)
    if said.gain_low is not None and said.gain_high is not None:
        gain += f" [{said.gain_low:.2f}, {said.gain_high:.2f}]"
    return {
        "studied": short_name(parse_structure(said.structure)),
        "is": "this structure" if said.same else "its family",
        "gain": gain,
        "verdict": said.verdict,
        "new seeds": "yes" if said.confirmed else "no",
        "task": said.task,
        "FLOPs per run": flops_text(said.budget_flops),
        "widths": f"{said.narrowest:,} to {said.widest:,}",
        "at this scale": "yes" if said.at_this_scale else "no",
        "source": said.source,
    }
