"""Continuing text with a trained transformer: decoding with a key-value cache, sampling, and text as it is generated."""

from typing import TYPE_CHECKING

from einsearch_cli.lazy import lazy_names

if TYPE_CHECKING:
    from einsearch_cli.generation.codec import IdCodec as IdCodec, PromptCodec as PromptCodec, TextCodec as TextCodec
    from einsearch_cli.generation.decoding import Decoding as Decoding, check_prompt as check_prompt
    from einsearch_cli.generation.generating import (
        Continuation as Continuation,
        Generation as Generation,
        generate as generate,
    )
    from einsearch_cli.generation.sampling import Sampling as Sampling
else:
    __getattr__, __all__ = lazy_names(__name__, __file__)
