"""`einsearch tokenize`: text to token files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from einsearch_cli.cli import console
from einsearch_cli.cli.completing import offer
from einsearch_cli.cli.options import out_folder, path_parser, real_option
from einsearch_cli.cli.progress import share_progress

HELP = """Encode a text file, or a folder of text files, into token files: train.bin, val.bin and meta.json.

The files hold raw little-endian integers, as nanoGPT reads them. meta.json keeps
the number of tokens and the tokenizer. From a folder whole files are held out,
from a single file its end. A training run reads the folder with `tokens: FOLDER`.

Examples:

  einsearch tokenize book.txt --tokenizer characters --out data/book

  einsearch tokenize texts/ --tokenizer tiktoken:gpt2 --out data/gpt2
"""


class TokenTypeName(StrEnum):
    """The type of a stored token."""

    uint8 = "uint8"
    uint16 = "uint16"
    uint32 = "uint32"


def tokenize_command(
    path: Path = typer.Argument(
        parser=path_parser("PATH"), metavar="PATH", help="Text file, or folder of text files, in UTF-8."
    ),
    out: Path = out_folder(default=..., help="Folder for the token files; made when missing."),
    tokenizer: str = typer.Option(
        "bytes",
        metavar="NAME",
        autocompletion=offer("bytes", "characters", "bpe:1024", "tiktoken:gpt2", "huggingface:"),
        help="bytes, characters, bpe:N, tiktoken:NAME, tiktoken:FILE.tiktoken or huggingface:FILE.",
    ),
    held_out_fraction: float = real_option(
        "--held-out-fraction",
        default=0.05,
        rule=("from 1e-6 to 0.5", lambda number: 1e-6 <= number <= 0.5),
        example="0.05",
        help="Part of the characters held out.",
    ),
    token_type: TokenTypeName | None = typer.Option(
        None,
        metavar="TYPE",
        help="Type of the integers; nanoGPT reads uint16.",
        show_default="the smallest that holds all tokens",
    ),
) -> None:
    from einsearch_cli.data.tokens import write_tokens

    with share_progress("encoding") as on_progress:
        meta = write_tokens(
            path,
            out,
            tokenizer,
            held_out_fraction=held_out_fraction,
            token_type=None if token_type is None else token_type.value,
            progress=on_progress,
        )
    console.talk(
        f"wrote {meta.training_tokens:,} tokens to train on and {meta.held_out_tokens:,} held-out ones to {out} "
        f"({meta.token_type}, vocabulary {meta.vocabulary:,})"
    )
