"""`einsearch generate`: continue a text with a trained transformer."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import offer
from einsearch_cli.cli.options import MANY, SHARE, flag, path_parser, real_option, whole_option
from einsearch_cli.errors import PromptError

if TYPE_CHECKING:
    from einsearch_cli.data.tokens import Tokenizer
    from einsearch_cli.generation import Generation, PromptCodec

HELP = """Continue a text with a transformer that `einsearch train` made.

CKPT is the folder of a run, whose newest checkpoint is taken, or the folder of a
checkpoint. The continuation goes to stdout as it is written, its speed to
stderr. Keys and values of read tokens are kept. Structured layers multiply with
merged matrices where that is faster.

The same seed gives the same text on the same machine. Sample i has the seed
--seed + i, for any number of samples. A model that was trained on token files
without a tokenizer takes and gives token ids: --ids --prompt '17 4 291'.

Examples:

  einsearch generate runs/low-rank --prompt 'def ' --temperature 0.8 --top-p 0.95

  einsearch generate runs/low-rank --prompt - --samples 4 --format json < prompt.txt
"""


_MOST_PROMPT_BYTES = 100_000_000


class TextFormat(StrEnum):
    """The format of generated text."""

    text = "text"
    json = "json"


def generate_command(
    checkpoint: Path = typer.Argument(
        ..., parser=path_parser("CKPT"), metavar="CKPT", help="Folder of a run, or of one of its checkpoints."
    ),
    prompt: str = typer.Option(..., metavar="TEXT", help="Text to continue; - reads it from stdin."),
    max_tokens: int = whole_option(
        "--max-tokens", default=256, within=(1, MANY), help="Most new tokens per sample; fewer where the context ends."
    ),
    temperature: float = real_option(
        "--temperature",
        default=1.0,
        rule=("from 0 on", lambda number: number >= 0),
        example="0.8",
        help="0 always takes the likeliest token.",
    ),
    top_k: int | None = whole_option(
        "--top-k", example=50, within=(1, MANY), help="Draw from this many of the likeliest tokens."
    ),
    top_p: float | None = real_option(
        "--top-p",
        rule=SHARE,
        example="0.95",
        help="Draw from the likeliest tokens that have this probability together.",
    ),
    samples: int = whole_option("--samples", default=1, within=(1, 1024), help="Continuations, decoded side by side."),
    seed: int = whole_option("--seed", default=0, within=(0, 2**63 - 1025), help="Seed of the first sample."),
    stop: str | None = typer.Option(
        None, metavar="TOKEN", help="End at this token.", show_default="the tokenizer's end of text"
    ),
    ids: bool = flag("--ids", "Prompt, stop token and output are token ids."),
    device: str = typer.Option(
        "auto",
        metavar="NAME",
        autocompletion=offer("auto", "cpu", "cuda"),
        help="auto, cpu or cuda; auto is cuda where there is one.",
    ),
    output: TextFormat = typer.Option(
        TextFormat.text, "--format", metavar="FORMAT", help="Text as it is written, or JSON at the end."
    ),
) -> None:
    from einsearch_cli.generation import Sampling
    from einsearch_cli.training.full import refuse_without_checkpoint

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    refuse_without_checkpoint(checkpoint)

    from einsearch_cli.generation import Decoding, generate
    from einsearch_cli.training.devices import choose_device
    from einsearch_cli.training.full import load_model

    place = choose_device(device)
    text = console.read_stdin(_MOST_PROMPT_BYTES) if prompt == "-" else prompt
    model, tokenizer = load_model(checkpoint, place, console.talk)
    codec = _codec(ids, tokenizer, checkpoint)
    decoding = Decoding(
        model,
        codec.read(text),
        max_tokens=max_tokens,
        sampling=sampling,
        samples=samples,
        seed=seed,
        stop=_stop_token(stop, codec, tokenizer),
    )
    streams = output is TextFormat.text and samples == 1
    found = generate(decoding, codec, lambda _, new: console.stream(new) if streams else None)
    if output is TextFormat.json:
        console.data(json.dumps({"prompt": text, "seed": seed, **found.to_json()}, indent=2, ensure_ascii=False))
    elif streams:
        console.stream("\n")
    else:
        console.data("\n".join(f"--- sample {n}\n{sample.text}" for n, sample in enumerate(found.samples)))
    console.talk(_summary(found))


def _codec(ids: bool, tokenizer: Tokenizer | None, checkpoint: Path) -> PromptCodec:
    from einsearch_cli.generation import IdCodec, TextCodec

    if ids:
        return IdCodec()
    if tokenizer is None:
        raise PromptError(
            f"{checkpoint} has no tokenizer: the model was trained on token files without one",
            remedy="give token ids: --ids --prompt '17 4 291'",
        )
    return TextCodec(tokenizer)


def _stop_token(stop: str | None, codec: PromptCodec, tokenizer: Tokenizer | None) -> int | None:
    if stop is None:
        return None if tokenizer is None else tokenizer.end_of_text
    tokens = codec.read(stop)
    if len(tokens) != 1:
        raise PromptError(
            f"--stop {stop!r} is {len(tokens)} tokens: generation stops at a single one",
            remedy="give the text of one token, or its id with --ids",
        )
    return tokens[0]


def _summary(found: Generation) -> str:
    from einsearch_cli.reports.numbers import time_text

    tokens = sum(len(sample.tokens) for sample in found.samples)
    ends = ", ".join(sorted({sample.ended_by for sample in found.samples}))
    rate = found.tokens_per_s
    speed = "" if rate is None else f", then {rate:.1f} tokens/s"
    return f"{tokens} token{'s' * (tokens != 1)}, ended by {ends}; first after {time_text(found.first_token_s)}{speed}"
