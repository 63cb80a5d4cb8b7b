"""Continuing text with a trained transformer: decoding with a key-value cache, sampling, text as it comes."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.generation.decoding import Decoding, check_prompt
    from einsearch_cli.generation.generating import Continuation, Generation, generate
    from einsearch_cli.generation.sampling import Sampling
    from einsearch_cli.generation.words import IdWords, TextWords, Words
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "decoding": ("Decoding", "check_prompt"),
            "generating": ("Continuation", "Generation", "generate"),
            "sampling": ("Sampling",),
            "words": ("IdWords", "TextWords", "Words"),
        },
    )

__all__ = [
    "Continuation",
    "Decoding",
    "Generation",
    "IdWords",
    "Sampling",
    "TextWords",
    "Words",
    "check_prompt",
    "generate",
]
