"""Continuing text with a trained transformer: decoding with a key-value cache, sampling, text as it comes."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.generation.codec import IdCodec, PromptCodec, TextCodec
    from einsearch_cli.generation.decoding import Decoding, check_prompt
    from einsearch_cli.generation.generating import Continuation, Generation, generate
    from einsearch_cli.generation.sampling import Sampling
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "decoding": ("Decoding", "check_prompt"),
            "generating": ("Continuation", "Generation", "generate"),
            "sampling": ("Sampling",),
            "codec": ("IdCodec", "TextCodec", "PromptCodec"),
        },
    )

__all__ = [
    "Continuation",
    "Decoding",
    "Generation",
    "IdCodec",
    "PromptCodec",
    "Sampling",
    "TextCodec",
    "check_prompt",
    "generate",
]
